/*
 * untyped.h
 *		Parameters that a client gives to dtx_exec or dtx_query without a type.
 */
#ifndef DTX_UNTYPED_H
#define DTX_UNTYPED_H

#include "nodes/parsenodes.h"
#include "parser/parse_node.h"

/* A query was analysed: give such parameters a type, before the server refuses them. */
extern void untyped_resolve(ParseState *pstate, Query *query);

#endif							/* DTX_UNTYPED_H */
