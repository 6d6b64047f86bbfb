/*
 * shared.c
 *		Shared global transactions: their rows, opening them, and the end of them.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "core/api.h"
#include "core/branch_row.h"
#include "core/clock.h"
#include "core/compat.h"
#include "core/contact.h"
#include "core/errors.h"
#include "core/fault.h"
#include "core/global.h"
#include "core/history.h"
#include "core/join.h"
#include "core/node.h"
#include "core/override.h"
#include "core/participant.h"
#include "core/peer_use.h"
#include "core/route.h"
#include "core/relations.h"
#include "core/settle.h"
#include "core/shared.h"
#include "core/shared_here.h"
#include "core/shmem.h"
#include "core/tell.h"
#include "core/vote.h"
#include "fmgr.h"
#include "guc.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "worker/control.h"

PG_FUNCTION_INFO_V1(dtx_open);
ENTRY_POINT(dtx_commit, 1);
ENTRY_POINT(dtx_rollback, 1);

/* --- rows --- */

/* The OIDs of an array, which has no NULL. */
static List *
oid_list(ArrayType *array)
{
	List	   *list = NIL;

	for (int i = 0; i < ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array)); i++)
		list = lappend_oid(list, ((Oid *) ARR_DATA_PTR(array))[i]);
	return list;
}

bool
shared_find(uint64 n, SharedTransaction *st)
{
	OwnScan		scan;
	HeapTuple	tuple;
	bool		found = false;
	bool		isnull;
	Datum		joiners;

	own_scan_int8(&scan, OWN_GLOBAL, OWN_GLOBAL_PKEY, AccessShareLock, (int64) n);
	if (HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		text_to_cstring_buffer(DatumGetTextPP(own_column(&scan, tuple, Anum_global_xid, NULL)),
							   st->xid_text, sizeof(st->xid_text));
		st->state = DatumGetChar(own_column(&scan, tuple, Anum_global_state, NULL));
		st->role = DatumGetObjectId(own_column(&scan, tuple, Anum_global_role, NULL));
		st->deadline = DatumGetTimestampTz(own_column(&scan, tuple, Anum_global_deadline, NULL));
		joiners = own_column(&scan, tuple, Anum_global_joiners, &isnull);
		st->joiners = isnull ? NIL : oid_list(DatumGetArrayTypePCopy(joiners));
		found = xid_parse(st->xid_text, &st->xid);
	}
	own_scan_end(&scan);
	return found;
}

char
shared_state(uint64 n)
{
	SharedTransaction st;

	return shared_find(n, &st) ? st.state : 0;
}

List *
shared_roles(const GlobalXid *xid)
{
	SharedTransaction st;

	return node_is_self(xid->node) && shared_find(xid->n, &st) && xid_equal(&st.xid, xid) ?
		lappend_oid(st.joiners, st.role) : NIL;
}

uint64
shared_least_n(uint64 most)
{
	OwnScan		scan;
	HeapTuple	tuple;

	own_scan_all(&scan, OWN_GLOBAL, AccessShareLock);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
		most = Min(most, (uint64) DatumGetInt64(own_column(&scan, tuple, Anum_global_n, NULL)));
	own_scan_end(&scan);
	return most;
}

/* Is the current role one of those that a transaction is known to? role: who opened it,
 * or InvalidOid; it and the others each with its members. */
static bool
is_known_to(Oid role, List *others)
{
	ListCell   *cell;

	if (OidIsValid(role) && has_privs_of_role(GetUserId(), role))
		return true;
	foreach(cell, others)
		if (has_privs_of_role(GetUserId(), lfirst_oid(cell)))
			return true;
	return false;
}

void
shared_get(const char *xid_text, SharedTransaction *st)
{
	GlobalXid	xid;
	List	   *roles;

	xid_parse_or_error(xid_text, &xid);
	if (!node_is_self(xid.node))
		ereport(ERROR,
				(errcode(ERRCODE_DTX_BRANCH_STATE),
				 errmsg("global transaction \"%s\" was not opened at this node", xid_text),
				 errhint("Only node \"%s\" decides it.", xid.node)));
	if (shared_find(xid.n, st) && xid_equal(&st->xid, &xid) && is_known_to(st->role, st->joiners))
		return;
	memset(st, 0, sizeof(*st));
	st->xid = xid;
	strlcpy(st->xid_text, xid_text, sizeof(st->xid_text));
	st->state = history_decision(xid.node, xid.n, xid.r, 0);
	roles = history_roles(xid.node, xid.n, xid.r);
	if (st->state == 0 || !is_known_to(InvalidOid, roles))
		ereport(ERROR,
				(errcode(ERRCODE_DTX_BRANCH_STATE),
				 errmsg("global transaction \"%s\" is not open", xid_text),
				 errdetail("There is no such transaction, or it has ended long ago.")));
	st->role = linitial_oid(roles);
	st->state = st->state == 'c' || st->state == 'H' ? 'c' : 'r';
}

void
shared_refuse_unless_open(const SharedTransaction *st)
{
	if (st->state != 'o')
		ereport(ERROR,
				(errcode(ERRCODE_DTX_BRANCH_STATE),
				 errmsg("global transaction \"%s\" is not open", st->xid_text),
				 errdetail("It was %s.", st->state == 'c' ? "committed" : "rolled back")));
	if (GetCurrentTimestamp() >= st->deadline)
		ereport(ERROR,
				(errcode(ERRCODE_DTX_TIMEOUT),
				 errmsg("global transaction \"%s\" timed out", st->xid_text),
				 errdetail("Its time was over at %s.", timestamptz_to_str(st->deadline)),
				 errhint("It is rolled back. dtx_open sets the timeout.")));
}

static void
set_state(const SharedTransaction *st, char state)
{
	Datum		values[Natts_global] = {0};
	bool		nulls[Natts_global] = {0};
	bool		replace[Natts_global] = {0};
	Outcome		rows = {.kind = OUTCOME_ROWS, .n = st->xid.n, .commit = true};
	OwnScan		scan;
	HeapTuple	tuple;

	own_scan_int8(&scan, OWN_GLOBAL, OWN_GLOBAL_PKEY, RowExclusiveLock, (int64) st->xid.n);
	if (HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		values[Anum_global_state - 1] = CharGetDatum(state);
		values[Anum_global_ended_at - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
		replace[Anum_global_state - 1] = replace[Anum_global_ended_at - 1] = true;
		own_update(&scan, tuple, values, nulls, replace);
	}
	own_scan_end(&scan);
	CommandCounterIncrement();
	tell_worker_at_commit(&rows);
	if (synchronous_commit < SYNCHRONOUS_COMMIT_REMOTE_FLUSH)
		setting_local("synchronous_commit", "on");
	ForceSyncCommit();
}

/* A palloc'd array of the branches. */
static SharedBranch *
list_branches(uint64 n, int *count)
{
	int			room = 8;
	SharedBranch *branches = palloc(room * sizeof(SharedBranch));
	OwnScan		scan;
	HeapTuple	tuple;

	*count = 0;
	own_scan_int8(&scan, OWN_BRANCH, OWN_BRANCH_N_IDX, AccessShareLock, (int64) n);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		SharedBranch *branch;

		if (DatumGetChar(own_column(&scan, tuple, Anum_branch_state, NULL)) != 's')
			continue;
		if (*count == room)
			branches = repalloc(branches, (room *= 2) * sizeof(SharedBranch));
		branch = &branches[(*count)++];
		text_to_cstring_buffer(DatumGetTextPP(own_column(&scan, tuple, Anum_branch_gid, NULL)),
							   branch->gid_text, sizeof(branch->gid_text));
		branch->server = DatumGetObjectId(own_column(&scan, tuple, Anum_branch_server, NULL));
		branch->role = DatumGetObjectId(own_column(&scan, tuple, Anum_branch_role, NULL));
	}
	own_scan_end(&scan);
	return branches;
}

/* --- opening --- */

/* Roles, as they are kept. */
static ArrayType *
joiners_array(ArrayType *roles)
{
	Datum	   *items;
	bool	   *nulls;
	int			n;

	deconstruct_array(roles, REGROLEOID, sizeof(Oid), true, TYPALIGN_INT, &items, &nulls, &n);
	for (int i = 0; i < n; i++)
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("who may join a global transaction must not be null")));
	return construct_array(items, n, OIDOID, sizeof(Oid), true, TYPALIGN_INT);
}

/* dtx_open(timeout interval, name text, joiners regrole[], join bool) */
Datum
dtx_open(PG_FUNCTION_ARGS)
{
	Datum		values[Natts_global] = {0};
	bool		nulls[Natts_global] = {0};
	TimestampTz now = GetCurrentTimestamp();
	SharedTransaction st = {0};
	char	   *xid_text = st.xid_text;
	GlobalXid  *xid = &st.xid;

	shmem_require();
	argument_required(fcinfo, 3);
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("timeout of a global transaction must not be null")));
	if (current_branch.active)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a branch cannot open a global transaction"),
				 errdetail("This transaction is branch \"%s\".", current_branch.gid_text)));
	PreventCommandDuringRecovery("dtx_open()");
	PreventCommandIfReadOnly("dtx_open()");
	if (PG_GETARG_BOOL(3))
		join_refuse_unless_first();
	strlcpy(xid->node, node_self(), sizeof(xid->node));
	xid->n = U64FromFullTransactionId(GetTopFullTransactionId());
	xid->r = global_draw_r();
	xid_format(xid, xid_text);
	values[Anum_global_n - 1] = Int64GetDatum((int64) xid->n);
	values[Anum_global_r - 1] = Int64GetDatum((int64) xid->r);
	values[Anum_global_state - 1] = CharGetDatum('o');
	values[Anum_global_role - 1] = ObjectIdGetDatum(GetUserId());
	values[Anum_global_opened_at - 1] = TimestampTzGetDatum(now);
	values[Anum_global_deadline - 1] =
		TimestampTzGetDatum(TimestampTzPlusMilliseconds(now, interval_to_ms(PG_GETARG_INTERVAL_P(0))));
	nulls[Anum_global_ended_at - 1] = true;
	nulls[Anum_global_name - 1] = PG_ARGISNULL(1);
	if (!PG_ARGISNULL(1))
		values[Anum_global_name - 1] = PG_GETARG_DATUM(1);
	values[Anum_global_xid - 1] = CStringGetTextDatum(xid_text);
	nulls[Anum_global_joiners - 1] = PG_ARGISNULL(2);
	if (!PG_ARGISNULL(2))
		values[Anum_global_joiners - 1] = PointerGetDatum(joiners_array(PG_GETARG_ARRAYTYPE_P(2)));
	if (!own_insert_unique(OWN_GLOBAL, values, nulls))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("this transaction has opened a global transaction already")));
	if (PG_GETARG_BOOL(3))
		join_opened(&st);
	stat_add(STAT_BEGUN, 1);
	worker_wake_at_commit();
	PG_RETURN_TEXT_P(cstring_to_text(xid_text));
}

/* --- the end --- */

static void
check_may_decide(const SharedTransaction *st, bool within)
{
	if (current_branch.active && !within)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a branch cannot decide a global transaction"),
				 errdetail("This transaction is branch \"%s\".", current_branch.gid_text)));
	PreventCommandIfReadOnly("deciding a global transaction");
	if (!has_privs_of_role(GetUserId(), st->role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be the role that opened global transaction \"%s\" to decide it", st->xid_text)));
}

/* Is the current transaction a branch of it, in the opener's database? */
static bool
is_own_branch(const SharedTransaction *st)
{
	return current_branch.active && (current_branch.flags & JOIN_OWN_SESSION) && !current_branch.taken_back &&
		xid_equal(&current_branch.gid.xid, &st->xid);
}

/* The branches without the one that the current transaction is. */
static int
all_but_own(SharedBranch *branches, int count)
{
	int			others = 0;

	for (int i = 0; i < count; i++)
		if (strcmp(branches[i].gid_text, current_branch.gid_text) != 0)
			branches[others++] = branches[i];
	return others;
}

/*
 * Decide from within: the current transaction is a branch, and says that all others have
 * done their part. The others are asked, and it closes the transaction to new ones by its
 * lock, as who decides from outside does. Its own part is not asked for: the row with the
 * decision and phase 1 of this branch commit together, so there is no moment at which the
 * one would be there without the other. This local commit is the decision.
 *
 * Until then nothing is decided. A crash, a rollback, or one to a savepoint before this
 * call leaves the transaction open: without this branch, which can be joined again if it
 * names a step, and which a vote finds unknown if it does not.
 *
 * Nothing is settled here: the branch is not in doubt yet. The worker, which is told at the
 * commit, finds the decision and the branches.
 */
static void
commit_from_within(const char *xid_text, SharedBranch *branches, int count)
{
	SharedTransaction st;

	if (!vote_take(branches, all_but_own(branches, count)))
		ereport(ERROR,
				(errcode(ERRCODE_DTX_BRANCH_STATE),
				 errmsg("global transaction \"%s\" cannot be committed", xid_text),
				 errdetail("A branch of it has not committed its part."),
				 errhint("Roll this transaction back, and call dtx_rollback.")));
	/* the time that the vote took counts */
	shared_get(xid_text, &st);
	shared_refuse_unless_open(&st);
	set_state(&st, 'c');
	DTX_FAULT_POINT("shared-within-before-decision");
	stat_add(STAT_COMMITTED, 1);
}

/* dtx_commit(xid text) */
static Datum
dtx_commit_given(PG_FUNCTION_ARGS)
{
	char	   *xid_text = text_to_cstring(PG_GETARG_TEXT_PP(0));
	SharedTransaction st;
	SharedBranch *branches;
	bool		commit;
	int			count;

	shmem_require();
	shared_get(xid_text, &st);
	check_may_decide(&st, is_own_branch(&st));
	if (st.state == 'o' && !shared_lock(st.xid.n, ExclusiveLock, false))
		ereport(ERROR,
				(errcode(ERRCODE_DTX_BRANCH_STATE),
				 errmsg("a branch of global transaction \"%s\" is still running", xid_text),
				 errdetail("It is joining, or it runs in this database, or another session is deciding."),
				 errhint("The global transaction stays open; call dtx_commit when the branch has committed.")));
	shared_get(xid_text, &st);
	if (st.state == 'c')
		PG_RETURN_TEXT_P(cstring_to_text("committed"));	/* asked twice: a reply was lost */
	shared_refuse_unless_open(&st);
	branches = list_branches(st.xid.n, &count);
	if (is_own_branch(&st))
	{
		commit_from_within(xid_text, branches, count);
		PG_RETURN_TEXT_P(cstring_to_text("committed"));
	}
	commit = vote_take(branches, count);
	/* the time that the vote took counts */
	shared_get(xid_text, &st);
	shared_refuse_unless_open(&st);
	set_state(&st, commit ? 'c' : 'r');
	shared_settle_here(st.xid.n, commit);
	DTX_FAULT_POINT("shared-before-decision");
	stat_add(commit ? STAT_COMMITTED : STAT_ROLLED_BACK, 1);
	PG_RETURN_TEXT_P(cstring_to_text(commit ? "committed" : "rolled back"));
}

/* dtx_rollback(xid text) */
static Datum
dtx_rollback_given(PG_FUNCTION_ARGS)
{
	char	   *xid_text = text_to_cstring(PG_GETARG_TEXT_PP(0));
	SharedTransaction st;

	shmem_require();
	shared_get(xid_text, &st);
	check_may_decide(&st, false);
	(void) shared_lock(st.xid.n, ExclusiveLock, true);
	shared_get(xid_text, &st);
	if (st.state == 'c')
		ereport(ERROR,
				(errcode(ERRCODE_DTX_BRANCH_STATE),
				 errmsg("global transaction \"%s\" cannot be rolled back", xid_text),
				 errdetail("It was committed.")));
	if (st.state == 'o')
	{
		set_state(&st, 'r');
		stat_add(STAT_ROLLED_BACK, 1);
	}
	/* of one that has been decided before too: what is left of it */
	shared_settle_here(st.xid.n, false);
	PG_RETURN_TEXT_P(cstring_to_text("rolled back"));
}

/* Remember how they ended, in one row, and drop theirs. */
static void
file_away(List *ended, char state)
{
	HistoryEntry *entries = palloc0(Max(list_length(ended), 1) * sizeof(HistoryEntry));
	int			count = 0;
	const char *node = NULL;
	ListCell   *cell;

	foreach(cell, ended)
	{
		SharedTransaction *st = lfirst(cell);
		OwnScan		scan;
		HeapTuple	tuple;

		if (st->state != state)
			continue;
		node = st->xid.node;
		entries[count].n = st->xid.n;
		entries[count].r = st->xid.r;
		entries[count].role = st->role;
		entries[count++].mode = 's';
		own_scan_int8(&scan, OWN_GLOBAL, OWN_GLOBAL_PKEY, RowExclusiveLock, (int64) st->xid.n);
		if (HeapTupleIsValid(tuple = own_scan_next(&scan)))
			own_delete(&scan, tuple);
		own_scan_end(&scan);
	}
	if (count > 0)
		history_insert(node, state, entries, count);
}

int
shared_housekeeping(uint64 *least_n, List **roles)
{
	TimestampTz now = GetCurrentTimestamp();
	List	   *ns = NIL;
	List	   *ended = NIL;
	int			count = 0;
	ListCell   *cell;
	OwnScan		scan;
	HeapTuple	tuple;

	*least_n = PG_UINT64_MAX;
	own_scan_all(&scan, OWN_GLOBAL, AccessShareLock);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		uint64	   *n = palloc(sizeof(uint64));

		*n = (uint64) DatumGetInt64(own_column(&scan, tuple, Anum_global_n, NULL));
		*least_n = Min(*least_n, *n);
		ns = lappend(ns, n);
	}
	own_scan_end(&scan);
	foreach(cell, ns)
	{
		uint64		n = *(uint64 *) lfirst(cell);
		SharedTransaction *st = palloc0(sizeof(SharedTransaction));
		int			branches;
		Oid			role;

		count++;
		/* who decides it has it; look again later */
		if (!shared_find(n, st) || (st->state == 'o' && now < st->deadline) ||
			!shared_lock(n, ExclusiveLock, false) || !shared_find(n, st))
			continue;
		if (st->state == 'o')
		{
			set_state(st, 'r');
			st->state = 'r';
			stat_add(STAT_ROLLED_BACK, 1);
		}
		if (st->state == 'c')
			shared_settle_here(n, true);
		else if (OidIsValid(role = shared_rollback_role(n, st->role)))
			*roles = list_append_unique_oid(*roles, role);
		(void) list_branches(n, &branches);
		if (branches > 0)
			continue;
		/* a row of dtx.history is of one node's id: after an adoption there are two */
		if (ended != NIL && strcmp(((SharedTransaction *) linitial(ended))->xid.node, st->xid.node) != 0)
			continue;
		ended = lappend(ended, st);
		count--;
	}
	file_away(ended, 'c');
	file_away(ended, 'r');
	return count;
}
