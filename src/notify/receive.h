/*
 * receive.h
 *		Results that other nodes tell, or are asked for: each is applied once.
 */
#ifndef DTX_RECEIVE_H
#define DTX_RECEIVE_H

#include "postgres.h"

#include "msg/handler.h"

/*
 * The call of a notifier. notifications as messages in deliver.h, with the tx_no for
 * the key; a row comes back for each that was not applied, and was not before.
 */
#define RECEIVE_SQL \
	"SELECT id, state, detail, retry_after FROM dtx.receive($1::pg_catalog.text, $2::pg_catalog.int4, $3::pg_catalog.jsonb)"
#define RECEIVE_PARAMS	3

/* How it came. */
#define RECEIVED_TOLD	't'
#define RECEIVED_ASKED	'a'
#define RECEIVED_HTTP	'h'

/*
 * Apply results of the node whose first id is origin, messages whose key is the
 * tx_no, in the current transaction, as the current role: those that were applied
 * before are left alone, and marked as known. handler: a function's name; NULL: the
 * one that is named for that node. Returns one Handled each. ERROR 55000 when there is
 * none, 42501 when another role tells what that node does, and those of handler_lookup.
 */
extern Handled *results_apply(const char *handler, const char *origin, char how, List *messages);

/* The same for one. True: it was applied now. Throws the handler's ERROR. */
extern bool result_apply_one(const char *handler, const char *origin, char how, Message *message);

/* Was that result applied here? */
extern bool result_is_known(const char *origin, const char *tx_no);

#endif							/* DTX_RECEIVE_H */
