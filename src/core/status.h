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

/* One of the words of dtx_status. */
extern const char *global_status(const GlobalXid *xid);

#endif							/* DTX_STATUS_H */
