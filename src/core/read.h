/*
 * read.h
 *		A read at a peer that writes nothing there and leaves no branch.
 */
#ifndef DTX_READ_H
#define DTX_READ_H

#include "net/remote.h"
#include "tcop/utility.h"

/* May a statement that returns rows run as one? In a read-only transaction that has begun no
 * global transaction. */
extern bool read_is_due(void);

/* Run it. The caller owns the result. ERROR: the peer's, or of the connection. */
extern PGresult *read_run(const char *server_name, const RemoteStatement *statement);

/* --- at the peer --- */

/* Is the current transaction such a read? */
extern bool read_serves(void);

/* Before a utility command in one: ERROR 25006 for what does more than read. May change
 * the context, so that procedures cannot commit. */
extern void read_utility(PlannedStmt *statement, ProcessUtilityContext *context);

/* The transaction is about to commit: ERROR 25006 when it has written. */
extern void read_pre_commit(void);
extern void read_pre_prepare(void);

/* It ended. Never throws. */
extern void read_xact_end(void);

#endif							/* DTX_READ_H */
