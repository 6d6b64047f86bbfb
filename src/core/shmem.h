/*
 * shmem.h
 *		What the processes of a cluster share: a slot a database, a slot a
 *		process, and the filter of row locks.
 *
 * Nothing here is the truth. All of it is lost in a crash, and found again in
 * tables: outcomes by scanning dtx.branch and asking the peers, row locks by
 * scanning dtx.undo_log.
 */
#ifndef DTX_SHMEM_H
#define DTX_SHMEM_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "core/gid.h"
#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/spin.h"

#define DTX_OUTCOME_RING		2048
#define DTX_OPEN_ROLLBACKS		512
#define DTX_NESTED_ROLLBACKS	64
#define DTX_CONTACT_REQUESTS	16
#define DTX_ROLLING_BACK		64
#define DTX_WAITS_FOR_ANY		PG_UINT64_MAX	/* until branches of several are settled */
#define DTX_USED_PEERS			8
#define DTX_RETRY_REQUESTS		8
#define DTX_RUNNERS				64
#define DTX_HORIZONS			32
#define DTX_TARGET_BUCKETS		64
#define DTX_RECEIVERS			32	/* subscriptions for whose messages somebody waits */
#define DTX_TOPIC_SIZE			256
#define DTX_FILTER_CELLS		(1 << 20)	/* 4 MB: a branch of 100,000 rows leaves most at zero */

/*
 * What the end of a transaction tells the worker:
 *
 *	BRANCH	a branch of this node's own is decided
 *	ROWS	rows of dtx.branch are decided: those of the transaction n
 *	NESTED	a branch of a branch is to be rolled back: it is in the slot's list of those
 *	SUBSCRIPTIONS	subscriptions, or what is undelivered of them, have changed
 *	ASK		the peer (without a server: any) may have a branch without a row: ask
 */
typedef enum OutcomeKind
{
	OUTCOME_BRANCH,
	OUTCOME_ROWS,
	OUTCOME_NESTED,
	OUTCOME_SUBSCRIPTIONS,
	OUTCOME_ASK
} OutcomeKind;

typedef struct Outcome
{
	OutcomeKind kind;
	uint64		n;				/* the local transaction */
	uint64		r;
	uint32		b;
	bool		commit;
	bool		by_savepoint;	/* rolled back, in a transaction that committed */
	bool		has_row;		/* dtx.branch has a row */
	bool		shared;			/* of a shared transaction */
	char		mode;
	Oid			server;
	Oid			role;
	XLogRecPtr	decided_at;		/* end of the commit record; 0 for a rollback */
} Outcome;

/* A branch of another node's branch whose transaction here was rolled back. */
typedef struct NestedRollback
{
	Outcome		outcome;
	char		parent[DTX_GID_SIZE];
	bool		taken;			/* the worker is at it */
} NestedRollback;

typedef enum StatCounter
{
	STAT_BEGUN,
	STAT_COMMITTED,
	STAT_ROLLED_BACK,
	STAT_BRANCHES_STARTED,
	STAT_BRANCHES_JOINED,
	STAT_SETTLED_COMMIT,
	STAT_SETTLED_ROLLBACK,
	STAT_CONFIRMED,
	STAT_CANCELLED,
	STAT_SETTLE_CALLS,
	STAT_SETTLE_RETRIES,
	STAT_CONFLICTS,
	STAT_LOST_BRANCHES,
	STAT_HEURISTIC_CONFLICTS,
	STAT_ROWS_CAPTURED,
	STAT_ROWS_COMPENSATED,
	STAT_LOCK_WAITS,
	STAT_LOCK_TIMEOUTS,
	STAT_LOCK_GIVE_UPS,
	STAT_CALLS_REPEATED,
	STAT_RECOVERY_PASSES,
	STAT_MESSAGES_PUBLISHED,
	STAT_MESSAGES_DELIVERED,
	STAT_MESSAGES_HANDLED,
	STAT_MESSAGES_FAILED,
	STAT_MESSAGES_DEAD,
	STAT_NOTIFICATIONS_MADE,
	STAT_NOTIFICATION_ATTEMPTS,
	STAT_NOTIFICATIONS_DELIVERED,
	STAT_NOTIFICATIONS_EXHAUSTED,
	STAT_NOTIFICATIONS_APPLIED,
	STAT_OUTCOMES_ASKED,
	STAT_COUNT
} StatCounter;

typedef struct ContactRequest
{
	Oid			server;
	Oid			role;
	int			process;		/* whom to wake */
} ContactRequest;

/* A branch in the opener's own database that is to be registered. */
typedef struct RegisterRequest
{
	uint64		n;				/* of the shared transaction */
	Oid			role;
	int			process;		/* who joins: is told the branch's number, and woken */
	uint64		token;			/* of this very request: comes back with the answer */
	int64		step;			/* a hash of the step that it does; 0: none */
} RegisterRequest;

/* What waits for its next attempt is to be tried now. */
typedef struct RetryRequest
{
	Oid			role;			/* who asks for it: only what is hers */
	uint64		r;				/* of the transaction; 0: of any */
} RetryRequest;

/* A process that runs a role's functions in this database. */
typedef struct Runner
{
	Oid			role;
	pid_t		pid;			/* 0: none; -1: being started */
	Latch	   *latch;			/* NULL: not there yet */
	bool		wanted;			/* there may be work that it has not seen */
	TimestampTz due_at;			/* it left with something to do at that time; 0: it did not */
	bool		turn_over;		/* others have waited for its process slot for long */
	TimestampTz waiting_since;	/* it should be started since then; 0: it should not */
	TimestampTz started_at;
	TimestampTz not_before;		/* do not start one earlier: the last one has failed */
	int			failures;		/* of the last ones, in a row: they never came up, or ended before they
								 * had done anything */
	int			batch_of;		/* the subscription whose messages are being handled, or 0 */
	int			batch_size;		/* how many */
	int64		message;		/* the only one of them, if it is one; 0: there are more */
	TransactionId batch_xid;	/* the transaction that handles them */
	TimestampTz end_at;			/* the worker ends it when it still does the same then; 0: never */
} Runner;

/* Those who wait for messages of a subscription (msg/receivers.h). */
typedef struct Receivers
{
	int			waiting;		/* how many; 0: it is free */
	int			subscription;
	char		topic[DTX_TOPIC_SIZE];	/* or pattern */
	ConditionVariable arrived;
} Receivers;

typedef struct DatabaseSlot
{
	slock_t		mutex;			/* guards all that is not atomic */
	Oid			database;		/* InvalidOid: the slot is free */
	Latch	   *worker_latch;	/* NULL: no worker */
	pid_t		worker_pid;		/* 0: none; -1: being started */
	int			holds;			/* utility commands that need the worker away */
	bool		wanted;			/* somebody has work for a worker */
	bool		yield;			/* others need the process slot of an idle worker */
	bool		turn_over;		/* others have waited for it for long: idle or not */
	TimestampTz worker_since;	/* when the worker came up */
	bool		has_contacts;	/* the worker comes back for recovery passes */
	TimestampTz last_run;		/* when the last worker ended */
	TimestampTz due_at;			/* it left with something to do at that time; 0: with nothing */
	TimestampTz not_before;		/* do not start one earlier: it failed */

	uint64		head;			/* next to write; the ring holds [tail, head) */
	uint64		tail;
	bool		dozing;			/* the worker wakes by itself, soon */
	bool		rescan;			/* outcomes were dropped: scan dtx.branch */
	bool		ask_peers;		/* rollbacks were dropped: ask the peers */
	Outcome		ring[DTX_OUTCOME_RING];

	int			nopen;			/* rollbacks on their way to be settled */
	bool		open_overflow;	/* there are more than nopen */
	bool		recovered;		/* every contact was asked since the start */
	Outcome		open[DTX_OPEN_ROLLBACKS];
	int			nnested;		/* those of branches' branches */
	NestedRollback nested[DTX_NESTED_ROLLBACKS];

	int			nrequests;
	ContactRequest requests[DTX_CONTACT_REQUESTS];

	int			nregisters;
	RegisterRequest registers[DTX_CONTACT_REQUESTS];
	int			nretries;		/* dtx_retry */
	RetryRequest retries[DTX_RETRY_REQUESTS];

	Runner		runners[DTX_RUNNERS];
	bool		runners_yield;	/* others need the process slots of those that are idle */
	pg_atomic_uint64 published; /* counts messages in the log */
	pg_atomic_uint64 timed;		/* counts changes of when something is due */
	pg_atomic_uint32 notified[DTX_TARGET_BUCKETS];	/* count notifications, by a hash of the target */
	pg_atomic_uint32 prepared;	/* may prepared transactions have published? */
	pg_atomic_uint32 listening; /* is the worker to be woken for messages? */
	pg_atomic_uint32 segment;	/* of the log that is written; 0: not known */

	pg_atomic_uint32 receiving; /* how many processes wait for messages */
	Receivers	receivers[DTX_RECEIVERS + 1];	/* the last one: of all that found no place */

	ConditionVariable changed;	/* a worker ended, or branches were settled */
	bool		filter_loaded;	/* the filter counts this database's row locks */
	pg_atomic_uint64 garbage;	/* rows of dtx's tables deleted since a vacuum */
	pg_atomic_uint64 stats[STAT_COUNT];
} DatabaseSlot;

typedef struct UsedPeer
{
	Oid			server;
	Oid			role;
} UsedPeer;

typedef struct ProcessSlot
{
	slock_t		mutex;
	Oid			database;
	int			pid;
	Latch	   *latch;
	pg_atomic_uint64 waits_for;		/* hash of the xid whose row it waits for, or 0, or DTX_WAITS_FOR_ANY */
	pg_atomic_uint64 give_up_for;	/* hash of the xid for whose rollback it has to give way */
	pg_atomic_uint64 in_branch_of;	/* hash of the xid of its branch, or 0 */
	int			nrolling;			/* xids that it is compensating */
	uint64		rolling[DTX_ROLLING_BACK];
	Oid			role;
	uint64		n;					/* the global transaction it coordinates, or 0 */
	uint64		r;
	TimestampTz begun_at;
	TimestampTz deadline;			/* 0: none */
	int			branches;
	uint64		registered_token;	/* the worker's answer to this RegisterRequest: */
	uint32		registered_b;		/* the branch's number, 0: the transaction is not open */
	int			nused;				/* peers that its transaction uses; beyond the room: all */
	UsedPeer	used[DTX_USED_PEERS];
} ProcessSlot;

/* How far a coordinator has forgotten its transactions, cached from dtx.coordinator. */
typedef struct KnownHorizon
{
	Oid			database;		/* the participant; InvalidOid: free */
	Oid			role;			/* that it was told by */
	char		node[DTX_NODE_SIZE];
	uint64		horizon;
	uint32		timeline;
} KnownHorizon;

typedef struct SharedState
{
	uint64		boot;			/* drawn at random when the server starts, after a crash too */
	int64		started;		/* when, by clock_monotonic() */
	bool		unclean;		/* it has not been shut down before that, or was a standby */
	slock_t		horizons_mutex;
	int			next_horizon;	/* whom to replace when all are taken */
	KnownHorizon horizons[DTX_HORIZONS];
	Latch	   *launcher_latch;
	pid_t		launcher_pid;
	pg_atomic_uint32 waiters;	/* processes with waits_for set */
	pg_atomic_uint32 droppers;	/* transactions that drop a server, a mapping or a role */
	pg_atomic_uint32 filter[DTX_FILTER_CELLS];
	int			nprocesses;
	int			ndatabases;
	/* followed by ProcessSlot[nprocesses] and DatabaseSlot[ndatabases] */
} SharedState;

extern SharedState *shared;

extern void shmem_request(void);
extern void shmem_startup(void);

/* An ERROR with a hint when dtx was not loaded at server start. */
extern void shmem_require(void);

extern ProcessSlot *process_slot(int number);
extern ProcessSlot *my_process_slot(void);

/* This database's slot, created on demand; NULL when all are taken. */
extern DatabaseSlot *my_database_slot(void);
extern DatabaseSlot *database_slot_find(Oid database, bool create);
extern DatabaseSlot *database_slot_number(int number);
extern void database_slot_free(Oid database);

/* Hand an outcome to the worker. True: it has to be woken. Never throws. */
extern bool outcome_push(const Outcome *outcome);

/* Take up to most outcomes out of the ring. Returns their number. */
extern int	outcome_pop(DatabaseSlot *slot, Outcome *outcomes, int most);

/* Branches of this node on their way to be rolled back. */
extern void open_rollback_add(DatabaseSlot *slot, const Outcome *outcome);
extern void open_rollback_remove(DatabaseSlot *slot, uint64 n, uint64 r, uint32 b);
extern bool open_rollback_exists(DatabaseSlot *slot, uint64 n, uint64 r, bool by_savepoint);

/*
 * Branches of branches on their way to be rolled back, until the peers have: hand
 * one to the worker (true: it has to be woken; never throws), take one that it is
 * not at yet, say that a new worker is at none, remove one, and look for those of
 * one parent.
 */
extern bool nested_rollback_push(const Outcome *outcome, const char *parent);
extern bool nested_rollback_take(DatabaseSlot *slot, NestedRollback *rollback);
extern void nested_rollbacks_untake(DatabaseSlot *slot);
extern void nested_rollback_remove(DatabaseSlot *slot, uint64 n, uint64 r, uint32 b);
extern bool nested_rollback_exists(DatabaseSlot *slot, const char *parent);

/* A copy of them into an array of DTX_OPEN_ROLLBACKS. Returns their number. */
extern int	open_rollbacks_copy(DatabaseSlot *slot, Outcome *outcomes);

/* The same, or not known: the list overflowed, or not all peers were asked yet. */
extern bool open_rollback_possible(DatabaseSlot *slot, uint64 n, uint64 r);

/* Wake the worker of this slot, or the launcher to start one. Never throws. */
extern void worker_wake(DatabaseSlot *slot);
extern void launcher_wake(void);

/* The cache of horizons and timelines. They only grow; a value never goes back. */
extern bool horizon_recall(const char *node, Oid role, uint64 *horizon, uint32 *timeline);
extern void horizon_remember(const char *node, Oid role, uint64 horizon, uint32 timeline);

/* Rows of dtx's tables were deleted: the worker vacuums after enough of them. */
extern void note_garbage(uint64 rows);

extern void stat_add(StatCounter counter, uint64 amount);

#endif							/* DTX_SHMEM_H */
