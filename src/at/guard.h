/*
 * guard.h
 *		What a branch may not do, and what nobody may do to rows in doubt.
 */
#ifndef DTX_AT_GUARD_H
#define DTX_AT_GUARD_H

#include "postgres.h"

#include "core/compat.h"
#include "executor/execdesc.h"
#include "nodes/plannodes.h"
#include "tcop/utility.h"

/* Before a plan runs: inside a branch, refuse to write what is not attached. */
extern void guard_executor_start(QueryDesc *query);

/* Before a utility command runs: inside a branch, refuse what could not be undone. */
extern void guard_utility(PlannedStmt *statement);

/* Phase 1 is about to commit: refuse what was done without passing by here. */
extern void guard_before_phase_one(void);

/* Inside a branch a large object is created, altered or dropped. */
extern void guard_large_object(void);

/* The object access hook's part: rows in doubt outlive no DROP or TRUNCATE. flags: of
 * the deletion. */
extern void guard_relation_drop(Oid relid, int flags);
extern void guard_relation_truncate(Oid relid);

/* ERROR: it has rows in doubt. what: cannot be done to the table; code: SQLSTATE; detail: NULL,
 * or a sentence. */
pg_noreturn extern void guard_report_in_doubt(Oid relid, const char *what, int code, const char *detail);

/* Nor does the trigger that locks them go. what: of the table, for the message. */
extern void guard_trigger_drop(Oid trigger, const char *what);

#endif							/* DTX_AT_GUARD_H */
