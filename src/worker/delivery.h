/*
 * delivery.h
 *		One subscription's messages on their way to a peer. Of the dispatcher alone.
 */
#ifndef DTX_DELIVERY_H
#define DTX_DELIVERY_H

#include "postgres.h"

#include "lib/ilist.h"
#include "msg/handler.h"
#include "msg/position.h"
#include "worker/link.h"

#define SAVE_DELAY		100		/* ms from a batch to its position's being written */
#define GATHER_DELAY	3		/* ms from one batch to the next where many messages come */
#define GATHER_MESSAGES	4		/* where two batches in a row have as many */

/* Messages that were read together, and where the position is after each. */
typedef struct Batch
{
	MemoryContext context;
	List	   *messages;		/* those that are still to be handled, in order */
	Handled    *handled;		/* one each; skipped: they wait for others of their key */
	bool		retried;		/* from dtx.undelivered, not from the log */
	bool		examined;		/* which have to wait */
	bool		fresh;			/* what was published after this process had begun to read */
	Position	window;			/* passed and upto of the window they are from */
	Position	after;			/* where the reader was when it had read them */
} Batch;

typedef struct Pool Pool;

typedef struct Delivery
{
	dlist_node	node;
	MemoryContext context;		/* of all of this */
	Subscription *subscription;
	Position   *position;		/* as it is, and is written down now and then */
	bool		has_row;
	TimestampTz changed_at;		/* when it left what is written; 0: it has not */
	TimestampTz saved_at;
	XLogRecPtr	saved_lsn;		/* the last writing is durable when this is */
	int64		saved_batch;
	int64		last_sent;		/* number of the last batch sent */
	int64		forget;			/* batches up to this will never be sent again */
	Reader	   *reader;
	Link		connection;		/* closed: it has none of its pool's */
	Pool	   *pool;
	dlist_node	wait_node;		/* in its pool, while it waits */
	bool		waits;
	uint64		waits_since;	/* an ordinal */
	bool		turn;			/* it has got the connection to send a batch, and has not yet */
	bool		slow;			/* its last call took long */
	Batch		batches[2];
	int			current;		/* of these two */
	int			called;			/* messages of the current one in the call: a prefix */
	TimestampTz sent_at;		/* when the last one was sent */
	bool		certain;		/* what was written when this process started is durable */
	int64		unknown;		/* 0, or: what was in batches up to this one may have been
								 * handled, and is sent again */
	bool		catching_up;	/* what is read was there when this process started */
	int			singles;		/* so many are to be sent one by one */
	bool		look;			/* there may be new messages */
	TimestampTz retry_at;		/* when the first undelivered one is due; 0: none */
	bool		look_retries;	/* retry_at is not known */
	bool		look_waiting;	/* some may wait for what is gone */
	int			failures;		/* of the peer, in a row */
	int			busy;
	int			breaks;			/* calls in a row in which the connection was lost */
	bool		asks;			/* the call only asks what became of its message */
	int			suspected;		/* 0, or: the call has no messages, and asks whether so many of the
								 * current batch, all but one of which wait, failed for the peer's sake */
	TimestampTz not_before;
	int			many;			/* batches of many messages, in a row */
	TimestampTz gather_until;	/* more is coming than one by one: let it come together */
} Delivery;

/* All of them; in dispatch.c. */
extern dlist_head deliveries;

/* --- delivery.c: dealing with the peer --- */

/* position: its row, or NULL. In a transaction. */
extern Delivery *delivery_new(const Subscription *subscription, const Position *position);
extern void delivery_free(Delivery *delivery);

/* Do what can be done without waiting. */
extern void delivery_step(Delivery *delivery);

/* Could it send something now, as far as is known without looking? */
extern bool delivery_wants(Delivery *delivery);

/* --- pool.c: who has a connection --- */

/* A delivery that is made, or is about to go; its connection is closed. */
extern void pool_join(Delivery *delivery);
extern void pool_leave(Delivery *delivery);

/* Could one be had for it, and is it its turn? It is taken where there is something to be
 * sent: false, it is not to be had; or cannot be made, as *why says, palloc'd. */
extern bool pool_has_room(Delivery *delivery);
extern bool pool_take(Delivery *delivery, char **why);

/* It stands in line; or does not want any now. */
extern void pool_wait(Delivery *delivery);
extern void pool_wait_no_more(Delivery *delivery);

/* Its connection is idle: give it to who waits. True: it is gone. */
extern bool pool_pass_on(Delivery *delivery);

/* The call that was begun at sent_at is over. */
extern void pool_call_over(Delivery *delivery);

/* A connection's state, or what somebody has to send, has changed. */
extern void pool_changed(void);

/* Does somebody wait who could have one now? Then there is something to do at once. */
extern bool pool_is_stuck(void);

/* --- batch.c: what is read, and how far that has been delivered --- */

/* Write the position down, in a transaction of its own. */
extern void delivery_save(Delivery *delivery);

/* Note the peer's error, NULL: none, for dtx_subscriptions. */
extern void delivery_set_error(Delivery *delivery, const char *error);

/* Nothing but other subscriptions' messages came by: the position is where the reader is. */
extern void delivery_pass(Delivery *delivery);

/* Have messages in the current batch. False: there is nothing to deliver. */
extern bool delivery_have_batch(Delivery *delivery);

/* May there be something for the current batch? */
extern bool delivery_may_have_batch(Delivery *delivery);

/* While the peer is busy: read the next one, if it is known to be there. */
extern void delivery_read_ahead(Delivery *delivery);

/* Which messages of the current batch have to wait for others of their key. */
extern void delivery_examine(Delivery *delivery);

/* The first n messages of the current batch are over, as their outcomes say. */
extern void delivery_over(Delivery *delivery, int n);

#endif							/* DTX_DELIVERY_H */
