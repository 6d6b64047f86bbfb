/*
 * compensate.h
 *		Rolling branches back by their undo log.
 */
#ifndef DTX_AT_COMPENSATE_H
#define DTX_AT_COMPENSATE_H

#include "nodes/pg_list.h"

/*
 * Undo the branches, a List of JoinedBranch in the order in which to undo
 * them, and delete their entries. All or, by an ERROR, nothing: DX001 when a
 * row is not what the branch left, 55P03 when another transaction has it, class 23 when a constraint does not allow
 * the restored rows.
 */
extern void compensate(List *branches);

#endif							/* DTX_AT_COMPENSATE_H */
