/*
 * join.c
 *		Joining a shared global transaction.
 *
 * Whoever joins has the coordinator register a branch first, in a transaction of
 * its own there: when that is durable the local transaction becomes the branch. A
 * branch that is registered and never commits its part rolls all back. So who is to
 * be able to try again says which step of the transaction it does: the same step of
 * the same role at the same node is the same branch, and has the same gid.
 *
 * A step is done when its branch has committed phase 1: the row in dtx.joined_branch
 * says which step it was. Who comes with it a second time waits, on a lock of the
 * step's, until the first has ended, and then looks.
 *
 * Joining is allowed in a savepoint, where drivers put every statement, as long as
 * nothing has been written. That savepoint's rollback does not undo the join: the
 * transaction goes on as the branch, and nothing it writes can get past it; but it
 * commits only if it says dtx_join once more.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "commands/sequence.h"
#include "common/hashfn.h"
#include "core/api.h"
#include "core/branch_row.h"
#include "core/clock.h"
#include "core/compat.h"
#include "core/contact.h"
#include "core/errors.h"
#include "core/fault.h"
#include "core/global.h"
#include "core/join.h"
#include "core/locks.h"
#include "core/node.h"
#include "core/override.h"
#include "core/participant.h"
#include "core/peer_use.h"
#include "core/relations.h"
#include "core/route.h"
#include "core/shared.h"
#include "core/shared_here.h"
#include "core/settle.h"
#include "fmgr.h"
#include "guc.h"
#include "miscadmin.h"
#include "net/connection.h"
#include "net/remote.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/timestamp.h"
#include "worker/control.h"

PG_FUNCTION_INFO_V1(dtx_join);
PG_FUNCTION_INFO_V1(dtx_join_step);
PG_FUNCTION_INFO_V1(dtx_branch_register);

/* ms until a request that the worker has not answered is made again */
#define REGISTER_AGAIN	5000

#define STEP_MAX	1000		/* bytes */

/* --- at the coordinator --- */

/* What a registered branch's step is known by there: 0, none. */
static int64
step_hash(const char *role, const char *step)
{
	uint64		h;

	if (step == NULL)
		return 0;
	h = hash_combine64(hash_bytes_extended((const unsigned char *) role, strlen(role), 0),
					   hash_bytes_extended((const unsigned char *) step, strlen(step), 0));
	return h == 0 ? 1 : (int64) h;
}

/* The branch that is registered for that step at a node: its number, and gid; 0: none is. */
static uint32
find_step(uint64 n, const char *participant, int64 step, char *gid_text)
{
	OwnScan		scan;
	HeapTuple	tuple;
	uint32		b = 0;

	if (step == 0)
		return 0;
	own_scan_int8(&scan, OWN_BRANCH, OWN_BRANCH_N_IDX, AccessShareLock, (int64) n);
	while (b == 0 && HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		bool		none;
		Datum		its = own_column(&scan, tuple, Anum_branch_step, &none);

		if (none || DatumGetInt64(its) != step ||
			DatumGetChar(own_column(&scan, tuple, Anum_branch_state, NULL)) != 's' ||
			strcmp(TextDatumGetCString(own_column(&scan, tuple, Anum_branch_participant, NULL)), participant) != 0)
			continue;
		b = (uint32) DatumGetInt32(own_column(&scan, tuple, Anum_branch_b, NULL));
		text_to_cstring_buffer(DatumGetTextPP(own_column(&scan, tuple, Anum_branch_gid, NULL)), gid_text, DTX_GID_SIZE);
	}
	own_scan_end(&scan);
	return b;
}

/* A new branch's row; its gid into a buffer. Returns its number. */
static uint32
register_branch(const SharedTransaction *st, Oid server, Oid role, const char *participant,
				int64 step, char *gid_text)
{
	BranchRow	row = {.n = st->xid.n, .server = server, .role = role, .mode = 'a',
		.state = 's', .gid = gid_text, .participant = participant, .step = step};

	row.b = (uint32) nextval_internal(own_relid(OWN_SHARED_B), false);
	gid_of_child(st->xid_text, row.b, gid_text);
	branch_row_insert(&row);
	return row.b;
}

/* dtx.branch_register(xid text, node text, role text, step int8): at the coordinator, for
 * who joins as that role of its node; returns the gid. step: 0, or what one that tries again
 * is known by */
Datum
dtx_branch_register(PG_FUNCTION_ARGS)
{
	char	   *xid_text = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *node = text_to_cstring(PG_GETARG_TEXT_PP(1));
	int64		step = PG_GETARG_INT64(3);
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
	shared_get(xid_text, &st);
	shared_refuse_unless_open(&st);
	/* first everything that may take time */
	server = server_for_branch(node, st.role, text_to_cstring(PG_GETARG_TEXT_PP(2)));
	peer_use(server, st.role);
	contact_ensure(server, st.role, st.deadline);
	(void) shared_lock(st.xid.n, ShareLock, true);
	shared_get(xid_text, &st);
	shared_refuse_unless_open(&st);
	if (find_step(st.xid.n, node, step, gid_text) == 0)
		(void) register_branch(&st, server, st.role, node, step, gid_text);
	if (synchronous_commit < SYNCHRONOUS_COMMIT_REMOTE_FLUSH)
		setting_local("synchronous_commit", "on");
	DTX_FAULT_POINT("shared-before-register");
	PG_RETURN_TEXT_P(cstring_to_text(gid_text));
}

uint32
shared_register_here(const RegisterRequest *request)
{
	SharedTransaction st;
	char		gid_text[DTX_GID_SIZE];
	uint32		b;

	if (!shared_find(request->n, &st) || st.state != 'o')
		return 0;
	b = find_step(request->n, node_self(), request->step, gid_text);
	if (b == 0)
		b = register_branch(&st, InvalidOid, request->role, node_self(), request->step, gid_text);
	return b;
}

/* --- at the participant --- */

/* Have the coordinator register the branch: a transaction of its own there. */
static char *
register_at(const GlobalXid *xid, const char *xid_text, int64 step)
{
	Oid			role = GetUserId();
	const char *values[4];
	RemoteCall	call = {.nstatements = 3};
	char	   *volatile gid_text = NULL;

	values[0] = xid_text;
	values[1] = node_self();
	values[2] = GetUserNameFromId(role, false);
	values[3] = psprintf(INT64_FORMAT, step);
	call.pc = connection_get(server_for_node(xid->node, role), role, 0);
	call.statements[0].sql = BEGIN_SQL;
	call.statements[1].sql = "SELECT dtx.branch_register($1::pg_catalog.text, $2::pg_catalog.text, $3::pg_catalog.text, $4::pg_catalog.int8)";
	call.statements[1].nparams = 4;
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

/*
 * In the coordinator's own database the worker registers the branch, since this
 * transaction may yet abort: a branch that never commits must not be taken for
 * one that never joined. Waits for the row.
 */
static void
register_by_worker(const SharedTransaction *st, int64 step, char *gid_text)
{
	static uint32 count = 0;
	DatabaseSlot *slot = my_database_slot();
	ProcessSlot *mine = my_process_slot();
	RegisterRequest request = {st->xid.n, GetUserId(), dtx_process_number(),
	((uint64) MyProcPid << 32) | ++count, step};
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

/*
 * The step is this transaction's to do, to its end: one that does it now is waited for,
 * up to dtx.lock_timeout. Under nobody's key but the role's own: who cannot do it does
 * not hold it up.
 */
static void
lock_step(const char *xid_text, const char *step, int64 key)
{
	MemoryContext context = CurrentMemoryContext;
	int			nest = NewGUCNestLevel();
	volatile bool timed_out = false;

	if (guc_lock_timeout > 0 && (LockTimeout == 0 || LockTimeout > guc_lock_timeout))
		(void) set_config_option("lock_timeout", psprintf("%d", guc_lock_timeout), PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	PG_TRY();
	{
		(void) own_lock(LOCK_STEP, key, ExclusiveLock, true);
	}
	PG_CATCH();
	{
		if (geterrcode() != ERRCODE_LOCK_NOT_AVAILABLE)
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		FlushErrorState();
		timed_out = true;
	}
	PG_END_TRY();
	if (timed_out)
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("step \"%s\" of global transaction \"%s\" is being done by another transaction", step, xid_text),
				 errdetail("It has not ended within %d ms.", LockTimeout),
				 errhint("Try again. dtx.lock_timeout says how long is waited.")));
	AtEOXact_GUC(false, nest);
}

static int64
step_key(const char *xid_text, const char *step)
{
	uint32		hash = hash_combine(hash_bytes((const unsigned char *) xid_text, strlen(xid_text)),
									hash_bytes((const unsigned char *) step, strlen(step)));

	return (int64) (((uint64) GetUserId() << 32) | hash);
}

/* Is a branch of this shared transaction in doubt here that does that step, as the current role? */
static bool
joined_step(const GlobalXid *xid, const char *step)
{
	int64		low = (int64) ((xid->n & UINT64CONST(0x7fffffff)) << 32);
	ScanKeyData keys[2];
	OwnScan		scan;
	HeapTuple	tuple;
	bool		found = false;
	Gid			gid;

	/* keys of branches of one N lie together */
	ScanKeyInit(&keys[0], Anum_joined_branch_branch, BTGreaterEqualStrategyNumber, F_INT8GE,
				Int64GetDatum(low));
	ScanKeyInit(&keys[1], Anum_joined_branch_branch, BTLessEqualStrategyNumber, F_INT8LE,
				Int64GetDatum(low | INT64CONST(0xffffffff)));
	own_scan_begin(&scan, OWN_JOINED_BRANCH, OWN_JOINED_BRANCH_PKEY, AccessShareLock, 2, keys);
	while (!found && HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		bool		none;
		Datum		its = own_column(&scan, tuple, Anum_joined_branch_step, &none);

		found = !none && DatumGetChar(own_column(&scan, tuple, Anum_joined_branch_state, NULL)) == 'd' &&
			DatumGetObjectId(own_column(&scan, tuple, Anum_joined_branch_role, NULL)) == GetUserId() &&
			strcmp(TextDatumGetCString(its), step) == 0 &&
			gid_parse(TextDatumGetCString(own_column(&scan, tuple, Anum_joined_branch_gid, NULL)), &gid) &&
			xid_equal(&gid.xid, xid);
	}
	own_scan_end(&scan);
	return found;
}

/* Have the coordinator register the branch, and become it. */
static void
join(const GlobalXid *xid, const char *xid_text, const char *step)
{
	JoinRequest request = {.mode = "at", .flags = JOIN_OWN_SESSION, .step = step};
	int64		hash = step_hash(GetUserNameFromId(GetUserId(), false), step);
	char		gid_text[DTX_GID_SIZE];
	SharedTransaction st;

	if (node_is_self(xid->node))
	{
		/* who may not join does not hold it up */
		shared_get(xid_text, &st);
		/* to the end of this transaction: while it runs nobody decides */
		(void) shared_lock(xid->n, ShareLock, true);
		shared_get(xid_text, &st);
		shared_refuse_unless_open(&st);
		register_by_worker(&st, hash, gid_text);
	}
	else
		strlcpy(gid_text, register_at(xid, xid_text, hash), sizeof(gid_text));
	DTX_FAULT_POINT("shared-after-register");
	request.gid_text = gid_text;
	request.lock_timeout = guc_lock_timeout;
	participant_join(&request);
	/* whatever becomes of a savepoint that it is in */
	if (node_is_self(xid->node))
		own_lock_keep(LOCK_SHARED_TRANSACTION, (int64) xid->n, ShareLock);
}

/* For as long as the branch is not over its locks are waited for no longer than others' rows. */
static void
limit_waiting(void)
{
	char		timeout[16];

	if (guc_lock_timeout > 0 && (LockTimeout == 0 || LockTimeout > guc_lock_timeout))
	{
		snprintf(timeout, sizeof(timeout), "%d", guc_lock_timeout);
		setting_local("lock_timeout", timeout);
	}
}

static void
refuse_with_own_global(void)
{
	if (global_current() != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("this transaction has begun a global transaction of its own"),
				 errhint("Joining comes first of all.")));
}

void
join_refuse_unless_first(void)
{
	participant_refuse_unless_joinable(NULL, JOIN_OWN_SESSION);
	refuse_with_own_global();
}

/*
 * The row of dtx.global, that of the branch and the branch's work commit as one, or
 * there never was a transaction that anybody could join: so no other process has to
 * register this branch before.
 */
void
join_opened(const SharedTransaction *st)
{
	JoinRequest request = {.mode = "at", .flags = JOIN_OWN_SESSION | JOIN_OPENING, .lock_timeout = guc_lock_timeout};
	char		gid_text[DTX_GID_SIZE];

	(void) register_branch(st, InvalidOid, GetUserId(), st->xid.node, 0, gid_text);
	CommandCounterIncrement();
	request.gid_text = gid_text;
	participant_join(&request);
	limit_waiting();
}

/* True: the transaction is the branch. False: the step was done by another one. */
static bool
join_once(const char *xid_text, const char *step)
{
	GlobalXid	xid;
	int64		key = 0;

	shmem_require();
	xid_parse_or_error(xid_text, &xid);
	if (!participant_take_up(&xid, step))
	{
		participant_refuse_unless_joinable(xid_text, JOIN_OWN_SESSION);
		refuse_with_own_global();
		if (step != NULL)
		{
			key = step_key(xid_text, step);
			lock_step(xid_text, step, key);
			if (joined_step(&xid, step))
			{
				own_unlock(LOCK_STEP, key, ExclusiveLock);
				return false;
			}
		}
		/* who decides holds it up no longer than that either */
		limit_waiting();
		join(&xid, xid_text, step);
		if (step != NULL)
			own_lock_keep(LOCK_STEP, key, ExclusiveLock);
	}
	else
		limit_waiting();
	return true;
}

/* dtx_join(xid text) */
Datum
dtx_join(PG_FUNCTION_ARGS)
{
	arguments_required(fcinfo, 1);
	(void) join_once(text_to_cstring(PG_GETARG_TEXT_PP(0)), NULL);
	PG_RETURN_DATUM(PG_GETARG_DATUM(0));
}

/* dtx_join(xid text, step text) */
Datum
dtx_join_step(PG_FUNCTION_ARGS)
{
	char	   *step;

	arguments_required(fcinfo, 2);
	step = text_to_cstring(PG_GETARG_TEXT_PP(1));
	if (*step == '\0' || strlen(step) > STEP_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a step must have 1 to %d bytes", STEP_MAX),
				 errhint("It is what the caller's request is known by, such as its idempotency key.")));
	PG_RETURN_BOOL(join_once(text_to_cstring(PG_GETARG_TEXT_PP(0)), step));
}
