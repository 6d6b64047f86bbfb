/*
 * worker.h
 *		The launcher and the per-database worker.
 */
#ifndef DTX_WORKER_H
#define DTX_WORKER_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "core/shmem.h"
#include "datatype/timestamp.h"
#include "lib/ilist.h"
#include "net/remote.h"
#include "utils/hsearch.h"
#include "worker/link.h"

/* Register the launcher; at load time only. */
extern void launcher_register(void);

extern PGDLLEXPORT void dtx_launcher_main(Datum arg);
extern PGDLLEXPORT void dtx_worker_main(Datum arg);

/*
 * A branch on its way to be settled.
 *
 *	QUEUED		in its channel's queue, due at next_attempt
 *	CALLED		in the call that is under way
 *	ANSWERED	the participant has settled it, but may lose that in a crash
 *	CONFIRMED	the participant has it durably: to be finished here
 */
typedef enum ItemState
{
	ITEM_QUEUED,
	ITEM_CALLED,
	ITEM_ANSWERED,
	ITEM_CONFIRMED
} ItemState;

typedef struct ItemKey
{
	uint64		n;
	uint64		r;
	uint64		b;				/* 64 bits: no padding in the key */
} ItemKey;

typedef struct SettleItem
{
	ItemKey		key;			/* n: the local transaction that began it */
	char	   *gid;			/* in the worker's context */
	bool		nested;			/* a branch of another node's branch */
	bool		commit;
	bool		by_savepoint;
	bool		heuristic;		/* the participant has ended it the other way */
	bool		has_row;		/* a rollback that dtx.branch has a row of */
	bool		shared;			/* of a shared transaction */
	char		mode;
	Oid			server;
	Oid			role;
	XLogRecPtr	decided_at;
	ItemState	state;
	int			attempts;
	int			busy;			/* answers "busy", in a row */
	TimestampTz next_attempt;
	uint64		answer;			/* ordinal of the call that answered */
	dlist_node	link;			/* in its channel's queue, or in one of the lists */
} SettleItem;

typedef enum ChannelCall
{
	CALL_PENDING,
	CALL_SETTLE,
	CALL_FLUSH
} ChannelCall;

/* Everything about one (server, role): its connection, its queue, its errors. */
typedef struct Channel
{
	dlist_node	link;
	Oid			server;
	Oid			role;
	Link		connection;
	ChannelCall calling;
	dlist_head	queue;			/* QUEUED, in no order; due by next_attempt */
	int			nqueued;
	dlist_head	called;			/* CALLED */
	dlist_head	answered;		/* ANSWERED, oldest first */
	uint64		answers;		/* settle calls answered */
	XLogRecPtr	positions[2];	/* written at the last two answers */
	TimestampTz answered_at;	/* of the last one */
	TimestampTz settle_due;		/* settle no earlier: more may come to share the call */
	int			singles;		/* so many branches are to be sent one by one */
	bool		hurry;			/* somebody waits for rows there */
	TimestampTz not_before;		/* backoff after a failure of the whole channel */
	int			failures;
	int			lost_statements;	/* prepared ones, in a row */
	bool		gone;			/* the server, the mapping or the role was dropped */
	bool		failure_recorded;
	TimestampTz asked_at;		/* for branches in doubt; 0: to be asked at once */
	double		jitter;			/* of the time until it is asked again */
	bool		recovered;		/* asked at least once */
	char		node[DTX_NODE_SIZE];	/* who is there, as far as known */
	uint64		unread_n;		/* least N of rows of dtx.branch left for later; 0: none */
	uint64		removed_n[2];	/* least N of rows removed, not durably yet; 0: none */
	XLogRecPtr	removed_lsn[2]; /* durable when this is; [0] before [1] */
} Channel;

typedef struct Worker
{
	DatabaseSlot *slot;
	dlist_head	channels;
	HTAB	   *items;			/* all items, by key */
	dlist_head	confirmed;		/* CONFIRMED */
	int			nconfirmed;
	struct WaitEventSet *waits;
	TimestampTz last_work;
	TimestampTz last_outcome;	/* when one was last in the ring */
	uint64		ended_below;	/* every transaction of this server below it is over */
	int			nshared;		/* shared transactions, as of the last look */
	bool		shared_due;		/* look again: one was decided, or lost a branch */
	TimestampTz leave_by;		/* it begins nothing new, and leaves by then; 0: it stays */
	bool		more_rows;		/* rows of dtx.branch wait for room in memory */
	MemoryContext context;		/* of everything above */
	MemoryContext turn;			/* of what one turn of the loop needs */
} Worker;

extern Worker worker;

/* The earlier of two due times; 0: never. */
extern TimestampTz earlier(TimestampTz a, TimestampTz b);

/* Run a transaction of the worker's own; durable commits wait for the flush. */
extern void worker_begin(void);
extern void worker_commit(bool durable);

/* Commit so that it survives a crash of this server; standbys are not waited for. */
extern void worker_commit_flushed(void);

/* --- items: outcome.c --- */

/* Queue a branch, unless it is known already. */
extern void item_add(const Outcome *outcome, const char *gid);

/* Put an item back into its channel's queue, due after a delay in ms. */
extern void item_requeue(Channel *channel, SettleItem *item, long delay);

/* Record why an item could not be settled; shown in dtx_branches. False when a
 * commit's row is gone: an operator has removed it. */
extern bool item_record_failure(SettleItem *item, const char *message);

/* Record it, and queue the item for its next attempt; forget it where an operator
 * has removed its row. In a transaction. */
extern void item_failed(Channel *channel, SettleItem *item, const char *message);

/* The participant says that the channel's user may not settle it: a branch of a shared
 * transaction goes through another server to that node next, if there is one. In a
 * transaction. */
extern void item_denied(Channel *channel, SettleItem *item, const char *message);

/* Forget an item: there is nothing left to do for it. */
extern void item_drop(SettleItem *item);

/* Take the outcomes out of the ring, or scan dtx.branch where they were lost. */
extern void outcomes_drain(void);
extern void outcomes_rescan(void);

/* Move confirmed items to dtx.history. */
extern void outcomes_finish(void);

/* Retention. */
extern void outcomes_prune(void);

/* Shared transactions: deadlines, branches in this database, what is over. */
extern void outcomes_end_shared(void);

/* Look how far the server's transactions have ended. */
extern void outcomes_advance_horizon(void);

/*
 * The horizon to tell a channel's participant: every global transaction of
 * this node below it is over, and nothing of it will be asked there again.
 */
extern uint64 outcomes_horizon(Channel *channel);

/* --- channels: channel.c --- */

extern Channel *channel_get(Oid server, Oid role);

/* Do what can be done without waiting. */
extern void channel_step(Channel *channel);

/* When does it next have something to do by itself? 0: never. */
extern TimestampTz channel_due(Channel *channel);

extern void channel_close(Channel *channel);

/* Has the answer to the channel's call the rows and values that one must have? */
extern bool answer_is_sane(Channel *channel);

/* --- recovery: recovery.c --- */

/* Read dtx.contact: a channel each, to be asked at once. */
extern void recovery_load_contacts(void);

/* Record contacts that sessions ask for. */
extern void recovery_serve_requests(void);

/* The peer's answer: decide what can be decided, and queue it. */
extern void recovery_decide(Channel *channel, PGresult *pending);

/* Are the server, the role and a user mapping there still? In a transaction. */
extern bool contact_is_alive(Oid server, Oid role);

/* Delete the channel's row of dtx.contact. In a transaction. */
extern void contact_forget(Channel *channel);

/* The channel's state, for dtx_peers. error NULL: it works. */
extern void contact_record(Channel *channel, const char *error, TimestampTz next_attempt);

/* --- vacuum.c --- */

/* rows of dtx's tables deleted until they are vacuumed */
#define GARBAGE_ROWS	10000

/* Vacuum dtx's tables when enough rows have been deleted. */
extern void worker_vacuum(void);

/* ms: capped exponential, with jitter, for the given number of failures. */
extern long backoff_delay(int failures);

#endif							/* DTX_WORKER_H */
