/*
 * status.h
 *		What is known of a global transaction here.
 */
#ifndef DTX_STATUS_H
#define DTX_STATUS_H

#include "core/gid.h"

typedef enum TransactionState
{
	XACT_RUNNING,
	XACT_COMMITTED,
	XACT_ABORTED,
	XACT_FORGOTTEN,				/* so old that the server has dropped its state */
	XACT_NEVER_FLUSHED			/* not handed out, as far as this server knows */
} TransactionState;

/* The local transaction with this xid8. */
extern TransactionState transaction_state(uint64 n);

/* What dtx.history says of a branch (b 0: of any branch of the xid):
 * 'c', 'r', 's' (rolled back by a savepoint of a transaction that committed), or
 * 0 when it is not there. */
extern char history_decision(const GlobalXid *xid, uint32 b);

/* Is there a visible row of dtx.branch of the xid (b 0: any; else that one)? */
extern bool branch_row_exists(const GlobalXid *xid, uint32 b);

/* One of the words of dtx_status. */
extern const char *global_status(const GlobalXid *xid);

#endif							/* DTX_STATUS_H */
