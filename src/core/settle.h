/*
 * settle.h
 *		Phase 2 at the participant, and how a coordinator asks for it.
 */
#ifndef DTX_SETTLE_H
#define DTX_SETTLE_H

#include "core/mode.h"
#include "datatype/timestamp.h"
#include "net/remote.h"

/*
 * What became of a branch that was to be settled. The words travel.
 *
 *	settled		phase 2 is done, now or before
 *	busy		another connection is working on the branch: try again
 *	conflict	a row is not what the branch left; an operator must choose
 *	failed		an error; try again later
 *	lost		a commit for a branch that this participant never had, or lost
 *	denied		the branch belongs to another role
 *	heuristic	an operator has decided otherwise with dtx_resolve
 */
#define SETTLE_SETTLED	"settled"
#define SETTLE_BUSY		"busy"
#define SETTLE_CONFLICT	"conflict"
#define SETTLE_FAILED	"failed"
#define SETTLE_LOST		"lost"
#define SETTLE_DENIED	"denied"
#define SETTLE_HEURISTIC "heuristic"

/* detail of a rollback that is settled: the branch's own branches are not yet */
#define SETTLE_CHILDREN	"its own branches are being rolled back"

/* in the last row: somebody waits for rows of branches here; settle soon */
#define SETTLE_AWAITED	"awaited"

/*
 * The call: the ids of the node that asks, the present one first; its timeline;
 * its horizon; then gids text[], commits bool[] (true: commit), their modes as
 * letters, and the asking node's local transactions that began them (int8[],
 * empty where all are the gids' own N). One row a gid, in their order, and a
 * last one that says up to where the participant has written, and has made
 * durable, its log: what an earlier call settled is durable once the second has
 * passed the first.
 */
#define SETTLE_SQL \
	"SELECT outcome, detail, written, durable " \
	"FROM dtx.branch_settle($1::pg_catalog.text[], $2::pg_catalog.int4, $3::pg_catalog.int8, " \
	"$4::pg_catalog.text[], $5::pg_catalog.bool[], $6::pg_catalog.text, $7::pg_catalog.int8[])"
#define SETTLE_PARAMS	7

typedef struct SettleRequest
{
	const char *gid;
	bool		commit;
	char		mode;			/* as the asking node knows it; '?': it does not */
	uint64		n;				/* the asking node's local transaction */
	const char *outcome;		/* filled in: a SETTLE_ word */
	char	   *detail;			/* filled in: why, or NULL */
} SettleRequest;

typedef struct SettleCaller
{
	List	   *nodes;			/* char *: the ids of the node that asks; NIL: an operator does */
	uint32		timeline;
	uint64		horizon;		/* it will not ask again about transactions below; 0: not said */
} SettleCaller;

/* Settle here, in the current transaction. */
extern void settle_branches(SettleRequest *requests, int count, const SettleCaller *caller);

/* Is this branch in doubt here, its phase 1 committed? */
extern bool joined_in_doubt(const char *gid_text);

/* Is it, as far as can be seen, not another role's that the current one may not settle? */
extern bool joined_allowed(const char *gid_text);

/* Settle the branches (gids) that a shared transaction of this very node has here,
 * all of them or none, the last one first. NULL: it is done; otherwise why not,
 * palloc'd. */
extern char *settle_own(List *gids, bool commit);

/* May the current role settle this branch? */
extern bool settle_allowed(const JoinedBranch *branch);

/* Have a function called in each transaction that settles a branch here, with its
 * decision. It may throw. At load time. */
typedef void (*SettleListener) (const JoinedBranch *branch, bool commit);
extern void settle_listen(SettleListener listener);

/* Is a branch of this global transaction being settled right now, in this session? */
extern bool settle_is_of(const GlobalXid *xid);

/* Refuse to prepare a transaction that has settled branches. */
extern void settle_pre_prepare(void);

/* The transaction ended: wake who waited for the rows. Never throws. */
extern void settle_xact_end(bool commit);

/* Up to where this server's log would survive a crash, and a failover to a
 * synchronous standby where such are configured. */
extern XLogRecPtr durable_position(void);

/*
 * As a coordinator's session: have the peer roll a branch back, and wait until
 * it has. ERROR DX001 when it has a conflict, the peer's otherwise.
 */
extern void settle_rollback_now(PeerConnection *pc, const char *gid, char mode, uint64 n,
								TimestampTz deadline);

/* The parameters of SETTLE_SQL for such a call, palloc'd: an array of SETTLE_PARAMS. */
extern const char **settle_parameters(List *nodes, uint64 horizon, const SettleRequest *requests,
									  int count);

/* An array literal of text for a parameter, palloc'd. */
extern char *text_array_literal(const char *const *items, int count);

#endif							/* DTX_SETTLE_H */
