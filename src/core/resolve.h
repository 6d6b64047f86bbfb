/*
 * resolve.h
 *		What an operator decides when nobody else can.
 */
#ifndef DTX_RESOLVE_H
#define DTX_RESOLVE_H

#include "postgres.h"

/*
 * The coordinator asks for a branch that is not in doubt here. Has an operator
 * decided it? Then *outcome and *detail are set to what that means, and it is
 * noted whether the coordinator agrees.
 */
extern bool resolution_compare(const char *gid, bool commit, const char **outcome,
							   char **detail);

#endif							/* DTX_RESOLVE_H */
