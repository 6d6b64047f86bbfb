/*
 * resolve.h
 *		What an operator decides when nobody else can.
 */
#ifndef DTX_RESOLVE_H
#define DTX_RESOLVE_H

#include "postgres.h"

#include "datatype/timestamp.h"

/*
 * The coordinator asks for a branch that is not in doubt here. Has an operator
 * decided it? Then *outcome and *detail are set to what that means, and it is
 * noted whether the coordinator agrees. To another role that is denied.
 */
extern bool resolution_compare(const char *gid, bool commit, const char **outcome,
							   char **detail);

/* Calls found for each branch that an operator has decided and the coordinator has
 * not been heard on; those of roles that the current one may act as. */
typedef void (*ResolutionFound) (const char *gid, const char *superior, uint64 superior_n, void *arg);
extern void resolutions_open(ResolutionFound found, void *arg);

/* Forget those on which the coordinator has agreed before that time. */
extern void resolutions_prune(TimestampTz limit);

#endif							/* DTX_RESOLVE_H */
