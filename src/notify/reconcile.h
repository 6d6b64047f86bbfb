/*
 * reconcile.h
 *		Asking for results that were not told.
 */
#ifndef DTX_RECONCILE_H
#define DTX_RECONCILE_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"

/* In the worker, in a transaction: the roles (Oids) that expect something that is due
 * to be asked for. *next: when to look again; 0: nothing is expected. */
extern List *expectations_due(TimestampTz *next);

/* In a process of the role's, in no transaction: ask for one that is due, in a transaction,
 * and apply it in another. False: none was due; *next as above, for this role. */
extern bool expectation_check(Oid role, TimestampTz *next);

#endif							/* DTX_RECONCILE_H */
