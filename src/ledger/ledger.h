/*
 * ledger.h
 *		Moving money in this database's table of accounts.
 */
#ifndef DTX_LEDGER_H
#define DTX_LEDGER_H

#include "postgres.h"

/* Take an amount (a numeric) from an account, or add it. ERROR P0002 for an
 * unknown account, 22023 for an amount that is not positive or that the column
 * would round, DX004 for too small a balance. */
extern void ledger_move(bool debit, const char *account, Datum amount);

/* Could it be added? The same ERRORs. */
extern void ledger_check(const char *account, Datum amount);

/* A transfer by TCC: freeze here, add there or, server NULL, here. */
extern void ledger_transfer_tcc(const char *server, const char *from, const char *to,
								Datum amount);

#endif							/* DTX_LEDGER_H */
