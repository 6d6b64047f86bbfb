/*
 * attach.h
 *		A table's trigger of dtx.
 */
#ifndef DTX_AT_ATTACH_H
#define DTX_AT_ATTACH_H

#include "postgres.h"

/*
 * The table, which is locked against writers, and its partitions get the trigger of a partitioned
 * table: take away those that they have by themselves. Rows in doubt stay as they are,
 * since nobody can change one until the other trigger is there.
 */
extern void attach_merge(Oid relid);

/* Is that going on? */
extern bool attach_is_merging(void);

#endif							/* DTX_AT_ATTACH_H */
