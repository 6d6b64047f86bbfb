/*
 * status.h
 *		What is known of a global transaction here.
 */
#ifndef DTX_STATUS_H
#define DTX_STATUS_H

#include "access/htup.h"
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

/*
 * What dtx.history says of branch b (0: of any) of the transaction (node, n, r)
 * of this node, node NULL: under whatever id: 'c', 'r', 's' (rolled back by a savepoint of a transaction that
 * committed), 'H' or 'h' (to be committed, or rolled back, and ended otherwise
 * by an operator), or 0 when it is not there.
 */
extern char history_decision(const char *node, uint64 n, uint64 r, uint32 b);

/* What a row of dtx.branch says: 'c' commit, 'r' roll back, 'd' not decided. */
struct OwnScan;
extern char branch_row_decision(struct OwnScan *scan, HeapTuple tuple);

/* The same for the branch with that gid of this node's transaction n; 0 when
 * there is no visible row. */
extern char branch_decision(const char *gid_text, uint64 n);

/* Is there a visible row of dtx.branch of the global transaction? */
extern bool branch_row_exists(const GlobalXid *xid);

/* One of the words of dtx_status. */
extern const char *global_status(const GlobalXid *xid);

#endif							/* DTX_STATUS_H */
