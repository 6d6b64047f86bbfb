/*
 * shared.c
 *		Shared global transactions: their rows, joining, and the end of them.
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
PG_FUNCTION_INFO_V1(dtx_join);
PG_FUNCTION_INFO_V1(dtx_commit);
PG_FUNCTION_INFO_V1(dtx_rollback);
PG_FUNCTION_INFO_V1(dtx_branch_register);

/* ms until a request that the worker has not answered is made again */
#define REGISTER_AGAIN	5000

/* A row of dtx.global. */
typedef struct SharedTransaction
{
	GlobalXid	xid;
	char		xid_text[DTX_GID_SIZE];
	char		state;
	Oid			role;
	TimestampTz deadline;
	List	   *joiners;		/* OIDs: who may join besides the role */
} SharedTransaction;

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

static bool
find_shared(uint64 n, SharedTransaction *st)
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

	return find_shared(n, &st) ? st.state : 0;
}

List *
shared_roles(const GlobalXid *xid)
{
	SharedTransaction st;

	return node_is_self(xid->node) && find_shared(xid->n, &st) && xid_equal(&st.xid, xid) ?
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

/* The shared transaction of this id, as it is now or as it ended. ERROR DX003 unless
 * it is one of this node's, and known to the current role. */
static void
get_shared(const char *xid_text, SharedTransaction *st)
{
	GlobalXid	xid;
	List	   *roles;

	xid_parse_or_error(xid_text, &xid);
	if (!node_is_self(xid.node))
		ereport(ERROR,
				(errcode(ERRCODE_DTX_BRANCH_STATE),
				 errmsg("global transaction \"%s\" was not opened at this node", xid_text),
				 errhint("Only node \"%s\" decides it.", xid.node)));
	if (find_shared(xid.n, st) && xid_equal(&st->xid, &xid) && is_known_to(st->role, st->joiners))
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

static void
refuse_unless_open(const SharedTransaction *st)
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

static uint32
next_b(void)
{
	return (uint32) nextval_internal(own_relid(OWN_SHARED_B), false);
}

/* A new branch's row; its gid into a buffer. */
static void
register_branch(const SharedTransaction *st, uint32 b, Oid server, Oid role,
				const char *participant, char *gid_text)
{
	BranchRow	row = {.n = st->xid.n, .b = b, .server = server, .role = role, .mode = 'a',
		.state = 's', .gid = gid_text, .participant = participant};

	gid_of_child(st->xid_text, b, gid_text);
	branch_row_insert(&row);
}

/* --- opening and joining --- */

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

/* dtx_open(timeout interval, name text, joiners regrole[]) */
Datum
dtx_open(PG_FUNCTION_ARGS)
{
	Datum		values[Natts_global] = {0};
	bool		nulls[Natts_global] = {0};
	TimestampTz now = GetCurrentTimestamp();
	char		xid_text[DTX_GID_SIZE];
	GlobalXid	xid;

	shmem_require();
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("timeout of a global transaction must not be null")));
	if (current_branch.active)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a branch cannot open a global transaction"),
				 errdetail("This transaction is branch \"%s\".", current_branch.gid_text)));
	PreventCommandDuringRecovery("dtx_open()");
	PreventCommandIfReadOnly("dtx_open()");
	strlcpy(xid.node, node_self(), sizeof(xid.node));
	xid.n = U64FromFullTransactionId(GetTopFullTransactionId());
	xid.r = global_draw_r();
	xid_format(&xid, xid_text);
	values[Anum_global_n - 1] = Int64GetDatum((int64) xid.n);
	values[Anum_global_r - 1] = Int64GetDatum((int64) xid.r);
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
	stat_add(STAT_BEGUN, 1);
	worker_wake_at_commit();
	PG_RETURN_TEXT_P(cstring_to_text(xid_text));
}

/* dtx.branch_register(xid text, node text, role text): at the coordinator, for who joins
 * as that role of its node; returns the gid */
Datum
dtx_branch_register(PG_FUNCTION_ARGS)
{
	char	   *xid_text = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *node = text_to_cstring(PG_GETARG_TEXT_PP(1));
	char		gid_text[DTX_GID_SIZE];
	SharedTransaction st;
	Oid			server;

	shmem_require();
	settings_of_settling();
	PreventCommandDuringRecovery("dtx.branch_register()");
	if (current_branch.active)
		ereport(ERROR,
				(errcode(ERRCODE_DTX_BRANCH_STATE),
				 errmsg("branches cannot be registered inside a branch")));
	participant_serve();
	get_shared(xid_text, &st);
	refuse_unless_open(&st);
	/* first everything that may take time */
	server = server_for_branch(node, st.role, text_to_cstring(PG_GETARG_TEXT_PP(2)));
	peer_use(server, st.role);
	contact_ensure(server, st.role, st.deadline);
	(void) shared_lock(st.xid.n, ShareLock, true);
	get_shared(xid_text, &st);
	refuse_unless_open(&st);
	register_branch(&st, next_b(), server, st.role, node, gid_text);
	if (synchronous_commit < SYNCHRONOUS_COMMIT_REMOTE_FLUSH)
		setting_local("synchronous_commit", "on");
	DTX_FAULT_POINT("shared-before-register");
	PG_RETURN_TEXT_P(cstring_to_text(gid_text));
}

/* Have the coordinator register the branch: a transaction of its own there. */
static char *
register_at(const GlobalXid *xid, const char *xid_text)
{
	Oid			role = GetUserId();
	const char *values[3];
	RemoteCall	call = {.nstatements = 3};
	char	   *volatile gid_text = NULL;

	values[0] = xid_text;
	values[1] = node_self();
	values[2] = GetUserNameFromId(role, false);
	call.pc = connection_get(server_for_node(xid->node, role), role, 0);
	call.statements[0].sql = BEGIN_SQL;
	call.statements[1].sql = "SELECT dtx.branch_register($1::pg_catalog.text, $2::pg_catalog.text, $3::pg_catalog.text)";
	call.statements[1].nparams = 3;
	call.statements[1].values = values;
	call.statements[2].sql = "COMMIT";
	for (int i = 0; i < call.nstatements; i++)
		call.statements[i].once = true;
	PG_TRY();
	{
		remote_run(&call, 0);
		if (call.error != NULL || call.broken)
			remote_throw(&call);
		if (!remote_has_rows(&call, 1, 1, 1))
			ereport(ERROR,
					(errcode(ERRCODE_FDW_REPLY_HANDLE),
					 errmsg("server \"%s\" gave an unexpected answer", call.pc->server_name)));
		gid_text = pstrdup(PQgetvalue(call.results[1], 0, 0));
	}
	PG_FINALLY();
	{
		remote_free(&call);
	}
	PG_END_TRY();
	return gid_text;
}

uint32
shared_register_here(const RegisterRequest *request)
{
	SharedTransaction st;
	char		gid_text[DTX_GID_SIZE];
	uint32		b;

	if (!find_shared(request->n, &st) || st.state != 'o')
		return 0;
	b = next_b();
	register_branch(&st, b, InvalidOid, request->role, node_self(), gid_text);
	return b;
}

/*
 * In the coordinator's own database the worker registers the branch, since this
 * transaction may yet abort: a branch that never commits must not be taken for
 * one that never joined. Waits for the row.
 */
static void
register_by_worker(const SharedTransaction *st, char *gid_text)
{
	static uint32 count = 0;
	DatabaseSlot *slot = my_database_slot();
	ProcessSlot *mine = my_process_slot();
	RegisterRequest request = {st->xid.n, GetUserId(), dtx_process_number(),
	((uint64) MyProcPid << 32) | ++count};
	TimestampTz until = TimestampTzPlusMilliseconds(clock_now(), guc_connect_timeout);
	TimestampTz post_at = 0;
	bool		answered = false;
	uint32		b = 0;

	for (;;)
	{
		long		timeout = deadline_remaining(until);

		/* an answer to somebody before may come late */
		SpinLockAcquire(&mine->mutex);
		answered = mine->registered_token == request.token;
		b = mine->registered_b;
		SpinLockRelease(&mine->mutex);
		if (answered)
			break;
		if (timeout == 0 || slot == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("dtx has no worker in this database"),
					 errdetail("A branch in the database that opened the global transaction is registered by the worker."),
					 errhint("See the server's log; max_worker_processes may be too low.")));
		/* again after a while: a worker may die with it. One row too many is a
		 * branch that never commits its part: safe, but it rolls the rest back. */
		if (clock_now() >= post_at)
		{
			SpinLockAcquire(&slot->mutex);
			if (slot->nregisters < DTX_CONTACT_REQUESTS)
			{
				slot->registers[slot->nregisters++] = request;
				post_at = TimestampTzPlusMilliseconds(clock_now(), REGISTER_AGAIN);
			}
			SpinLockRelease(&slot->mutex);
			worker_wake(slot);
		}
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Min(timeout, 1000), PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	if (b == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DTX_BRANCH_STATE),
				 errmsg("global transaction \"%s\" is not open", st->xid_text)));
	gid_of_child(st->xid_text, b, gid_text);
}

/* dtx_join(xid text) */
Datum
dtx_join(PG_FUNCTION_ARGS)
{
	char	   *xid_text = text_to_cstring(PG_GETARG_TEXT_PP(0));
	JoinRequest request = {.mode = "at", .flags = JOIN_OWN_SESSION};
	char		gid_text[DTX_GID_SIZE];
	SharedTransaction st;
	GlobalXid	xid;
	bool		here;
	char		timeout[16];

	shmem_require();
	xid_parse_or_error(xid_text, &xid);
	participant_refuse_unless_joinable(xid_text);
	if (global_current() != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("this transaction has begun a global transaction of its own"),
				 errhint("Call dtx_join first of all.")));
	here = node_is_self(xid.node);
	if (here)
	{
		/* who may not join does not hold it up */
		get_shared(xid_text, &st);
		/* to the end of this transaction: while it runs nobody decides */
		(void) shared_lock(xid.n, ShareLock, true);
		get_shared(xid_text, &st);
		refuse_unless_open(&st);
		register_by_worker(&st, gid_text);
	}
	else
		strlcpy(gid_text, register_at(&xid, xid_text), sizeof(gid_text));
	DTX_FAULT_POINT("shared-after-register");
	request.gid_text = gid_text;
	request.lock_timeout = guc_lock_timeout;
	participant_join(&request);
	if (guc_lock_timeout > 0 && (LockTimeout == 0 || LockTimeout > guc_lock_timeout))
	{
		snprintf(timeout, sizeof(timeout), "%d", guc_lock_timeout);
		setting_local("lock_timeout", timeout);
	}
	PG_RETURN_VOID();
}

/* --- the end --- */

static void
check_may_decide(const SharedTransaction *st)
{
	if (current_branch.active)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a branch cannot decide a global transaction"),
				 errdetail("This transaction is branch \"%s\".", current_branch.gid_text)));
	PreventCommandIfReadOnly("deciding a global transaction");
	if (!has_privs_of_role(GetUserId(), st->role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be the role that opened global transaction \"%s\" to decide it", st->xid_text)));
}

/* dtx_commit(xid text) */
Datum
dtx_commit(PG_FUNCTION_ARGS)
{
	char	   *xid_text = text_to_cstring(PG_GETARG_TEXT_PP(0));
	SharedTransaction st;
	SharedBranch *branches;
	bool		commit;
	int			count;

	shmem_require();
	get_shared(xid_text, &st);
	check_may_decide(&st);
	if (st.state == 'o' && !shared_lock(st.xid.n, ExclusiveLock, false))
		ereport(ERROR,
				(errcode(ERRCODE_DTX_BRANCH_STATE),
				 errmsg("a branch of global transaction \"%s\" is still running", xid_text),
				 errdetail("It is joining, or it runs in this database, or another session is deciding."),
				 errhint("The global transaction stays open; call dtx_commit when the branch has committed.")));
	get_shared(xid_text, &st);
	if (st.state == 'c')
		PG_RETURN_TEXT_P(cstring_to_text("committed"));	/* asked twice: a reply was lost */
	refuse_unless_open(&st);
	branches = list_branches(st.xid.n, &count);
	commit = vote_take(branches, count);
	/* the time that the vote took counts */
	get_shared(xid_text, &st);
	refuse_unless_open(&st);
	set_state(&st, commit ? 'c' : 'r');
	shared_settle_here(st.xid.n, commit);
	DTX_FAULT_POINT("shared-before-decision");
	stat_add(commit ? STAT_COMMITTED : STAT_ROLLED_BACK, 1);
	PG_RETURN_TEXT_P(cstring_to_text(commit ? "committed" : "rolled back"));
}

/* dtx_rollback(xid text) */
Datum
dtx_rollback(PG_FUNCTION_ARGS)
{
	char	   *xid_text = text_to_cstring(PG_GETARG_TEXT_PP(0));
	SharedTransaction st;

	shmem_require();
	get_shared(xid_text, &st);
	check_may_decide(&st);
	(void) shared_lock(st.xid.n, ExclusiveLock, true);
	get_shared(xid_text, &st);
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
		if (!find_shared(n, st) || (st->state == 'o' && now < st->deadline) ||
			!shared_lock(n, ExclusiveLock, false) || !find_shared(n, st))
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
