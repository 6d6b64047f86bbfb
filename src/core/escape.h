/*
 * escape.h
 *		A statement of the user's cannot leave its branch.
 */
#ifndef DTX_ESCAPE_H
#define DTX_ESCAPE_H

#include "executor/executor.h"
#include "tcop/utility.h"

/* Before a query: ERROR 42809 when it returns rows and must not. */
extern void escape_executor_start(QueryDesc *query);

/* Before a utility command inside a branch: ERROR 2D000 for transaction control,
 * 55000 for what would change the session. May change the context, so that
 * procedures cannot commit. */
extern void escape_utility(PlannedStmt *statement, ProcessUtilityContext *context);

/* Before one in a session that goes on to serve others: ERROR 55000 for what would
 * change it. */
extern void escape_session(Node *node);

#endif							/* DTX_ESCAPE_H */
