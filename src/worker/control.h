/*
 * control.h
 *		How other processes ask for workers, and send them away.
 */
#ifndef DTX_WORKER_CONTROL_H
#define DTX_WORKER_CONTROL_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "nodes/plannodes.h"

/*
 * A utility command that needs a database without sessions (DROP DATABASE,
 * ALTER DATABASE RENAME, CREATE DATABASE with it as template): send its worker
 * away, and keep it away until worker_release. Returns the database, or
 * InvalidOid when the command is no such one.
 */
extern Oid	worker_hold_for(PlannedStmt *statement);
extern void worker_release(Oid database);

/* DROP EXTENSION is about to lock all tables of dtx: wait until the worker holds none of
 * them, and keep it from them to the end of the transaction. Or else the two could wait for each other. */
extern void worker_make_way(PlannedStmt *statement);

/* A database was dropped. */
extern void worker_forget(Oid database);

/* DROP of a server, a user mapping, a role or dtx's own tables: refuse while
 * branches need it.
 * Part of the object access hook. */
extern void worker_guard_drop(Oid class_id, Oid object_id);

/*
 * Around DROP OWNED BY, which takes a role's admission away with all its other rights, and does
 * not say so: ERROR 55006 while the role has branches in doubt here, which nobody but
 * superusers could settle then; and NOTICE, for each role that was admitted.
 * Before returns these roles, for after.
 */
extern List *worker_before_drop_owned(PlannedStmt *statement);
extern void worker_after_drop_owned(List *admitted);

/* When this transaction commits, a worker is needed. */
extern void worker_wake_at_commit(void);

/* Never throws. */
extern void worker_control_xact_end(bool commit);

#endif							/* DTX_WORKER_CONTROL_H */
