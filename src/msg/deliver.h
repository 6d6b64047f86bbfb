/*
 * deliver.h
 *		Delivering a batch of messages to a peer: the call, and its answer.
 */
#ifndef DTX_DELIVER_H
#define DTX_DELIVER_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/jsonb.h"

/*
 * What the answer's rows say: one for each message that was not handled, then
 * one for the batch.
 *
 *	failed		state and detail say why; retry_after: ms that the handler asked for
 *	skipped		an earlier message of the same key failed
 *	delivered	the batch, whose number is in id: all others were handled
 *	old			id has the last batch that was handled: this one is not newer
 *	refused		the batch: there is no such handler, or it may not be called; or a message is in it
 *				twice
 *	busy		another connection delivers messages of the subscription
 *
 * timeout: ms until the receiver ends a batch. handler '': none is called, and what
 * was not handled before has failed. messages is an array of
 * [id, topic, key, published_at in us since 2000, attempts, payload, headers].
 */
#define DELIVER_FAILED		"failed"
#define DELIVER_SKIPPED		"skipped"
#define DELIVER_DELIVERED	"delivered"
#define DELIVER_OLD			"old"
#define DELIVER_REFUSED		"refused"
#define DELIVER_BUSY		"busy"

#define DELIVER_SQL \
	"SELECT id, outcome, state, detail, retry_after FROM dtx.deliver($1::pg_catalog.int8, $2::pg_catalog.int4," \
	" $3::pg_catalog.int8, $4::pg_catalog.int8, $5::pg_catalog.int8, $6::pg_catalog.bool, $7::pg_catalog.int4," \
	" $8::pg_catalog.text, $9::pg_catalog.jsonb)"
#define DELIVER_PARAMS		9

/* The messages of a call, as above: a List of Message *, palloc'd. ERROR 22023. */
extern List *messages_parse(Jsonb *jsonb);

/* In the worker, in a transaction: forget what was received long ago. True: there may
 * be more of it. */
extern bool deliver_prune(void);

/* Have a subscription's delivery for this transaction alone: at once, or false;
 * or wait for it. */
extern bool subscription_try_lock(int64 uid);
extern void subscription_lock(int64 uid);

#endif							/* DTX_DELIVER_H */
