/*
 * alter.h
 *		ALTER TABLE of tables that have rows in doubt.
 */
#ifndef DTX_AT_ALTER_H
#define DTX_AT_ALTER_H

#include "postgres.h"

#include "nodes/plannodes.h"

/*
 * Before a utility command runs: is it an ALTER TABLE of a table that is attached to dtx, or
 * has children that are? Then it is to be run by alter_run. ERROR 55006 when it would detach
 * a partition concurrently that has rows in doubt.
 */
extern bool alter_is_of_attached(PlannedStmt *statement);

/*
 * Run the command, by the function given. Where it must not meet rows in doubt (a rewrite, a
 * change of the key) it waits until they are settled, up to lock_timeout: then ERROR 55P03.
 * ERROR 55006 when settling them waits for a lock that this transaction has from before.
 * The command may be run several times, so it must leave the statement's tree as it is.
 */
extern void alter_run(PlannedStmt *statement, void (*command) (void *arg), void *arg);

/* The command that runs must not meet rows in doubt of this table, which is locked: ERROR
 * 55006 if there are, what: to do, for the message. */
extern void alter_require_settled(Oid relid, const char *what);

#endif							/* DTX_AT_ALTER_H */
