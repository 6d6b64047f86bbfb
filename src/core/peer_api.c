/*
 * peer_api.c
 *		The functions of schema dtx that a coordinator calls at a participant,
 *		and dtx_ping, which looks at a peer from here.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "core/compat.h"
#include "core/node.h"
#include "core/override.h"
#include "core/participant.h"
#include "core/relations.h"
#include "core/resolve.h"
#include "core/settle.h"
#include "core/shmem.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "net/connection.h"
#include "net/peer.h"
#include "nodes/pg_list.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(dtx_peer_hello);
PG_FUNCTION_INFO_V1(dtx_branch_join);
PG_FUNCTION_INFO_V1(dtx_branch_control);
PG_FUNCTION_INFO_V1(dtx_branch_enter);
PG_FUNCTION_INFO_V1(dtx_branch_settle);
PG_FUNCTION_INFO_V1(dtx_branch_pending);
PG_FUNCTION_INFO_V1(dtx_branch_flush);
PG_FUNCTION_INFO_V1(dtx_ping);

#define HELLO_LOCK_TIMEOUT	5000	/* ms */

/*
 * While somebody who drops or alters the extension waits for a lock, dtx.node is locked.
 * Those who call have a limit of their own, and try again: their sessions here must not
 * wait on, one for each attempt.
 */
static char *
self_soon(void)
{
	MemoryContext context = CurrentMemoryContext;
	int			nest = NewGUCNestLevel();
	char	   *self = NULL;

	if (LockTimeout == 0 || LockTimeout > HELLO_LOCK_TIMEOUT)
		(void) set_config_option("lock_timeout", CppAsString2(HELLO_LOCK_TIMEOUT), PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	PG_TRY();
	{
		self = pstrdup(node_self());
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		if (geterrcode() != ERRCODE_LOCK_NOT_AVAILABLE)
			PG_RE_THROW();
		FlushErrorState();
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("extension dtx is locked in database \"%s\"", get_database_name(MyDatabaseId)),
				 errdetail("Somebody drops or alters it, or has locked table dtx.node.")));
	}
	PG_END_TRY();
	AtEOXact_GUC(false, nest);
	return self;
}

/* dtx.peer_hello(protocol int4): who this is, and what it speaks */
Datum
dtx_peer_hello(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Datum		values[4];
	bool		nulls[4] = {0};

	shmem_require();
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR), errmsg("return type must be a row type")));
	values[0] = CStringGetTextDatum(self_soon());
	values[1] = Int32GetDatum(DTX_PROTOCOL_VERSION);
	values[2] = CStringGetTextDatum(PG_VERSION);
	values[3] = BoolGetDatum(RecoveryInProgress());
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

static List *
text_list(ArrayType *array, const char *what)
{
	Datum	   *items;
	bool	   *nulls;
	int			n;
	List	   *list = NIL;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &items, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s must not be null", what)));
		list = lappend(list, TextDatumGetCString(items[i]));
	}
	return list;
}

/*
 * dtx.branch_join(gid text, mode text, flags int4, lock_timeout int4, timeline int4, token int8
 * [, superiors text[], superior_n int8])
 */
Datum
dtx_branch_join(PG_FUNCTION_ARGS)
{
	JoinRequest request = {0};

	shmem_require();
	request.gid_text = text_to_cstring(PG_GETARG_TEXT_PP(0));
	request.mode = text_to_cstring(PG_GETARG_TEXT_PP(1));
	request.flags = PG_GETARG_INT32(2) & (JOIN_ONE_STATEMENT | JOIN_NO_ROWS);
	request.lock_timeout = PG_GETARG_INT32(3);
	request.timeline = (uint32) PG_GETARG_INT32(4);
	request.token = PG_GETARG_INT64(5);
	if (PG_NARGS() > 6)
	{
		request.superiors = text_list(PG_GETARG_ARRAYTYPE_P(6), "superior nodes");
		request.superior_n = (uint64) PG_GETARG_INT64(7);
	}
	PG_RETURN_TEXT_P(cstring_to_text(participant_join(&request)));
}

/* dtx.branch_control(token int8) */
Datum
dtx_branch_control(PG_FUNCTION_ARGS)
{
	participant_control(PG_GETARG_INT64(0));
	PG_RETURN_VOID();
}

/* dtx.branch_enter(flags int4) */
Datum
dtx_branch_enter(PG_FUNCTION_ARGS)
{
	participant_enter(PG_GETARG_INT32(0));
	PG_RETURN_VOID();
}

/* The requests of a call of dtx.branch_settle, checked. */
static SettleRequest *
read_requests(FunctionCallInfo fcinfo, int *count)
{
	List	   *gids = text_list(PG_GETARG_ARRAYTYPE_P(3), "branches");
	char	   *modes = text_to_cstring(PG_GETARG_TEXT_PP(5));
	Datum	   *commits,
			   *ns;
	bool	   *commit_nulls,
			   *n_nulls;
	int			ncommits,
				nns;
	SettleRequest *requests;

	*count = list_length(gids);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(4), BOOLOID, 1, true, TYPALIGN_CHAR,
					  &commits, &commit_nulls, &ncommits);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(6), INT8OID, 8, true, TYPALIGN_DOUBLE,
					  &ns, &n_nulls, &nns);
	if (*count != ncommits || *count != strlen(modes) || (nns > 0 && nns != *count))
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("each branch to settle needs one decision and one mode")));
	requests = palloc0(*count * sizeof(SettleRequest));
	for (int i = 0; i < *count; i++)
	{
		if (commit_nulls[i] || (nns > 0 && n_nulls[i]))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("branches and decisions must not be null")));
		requests[i].gid = list_nth(gids, i);
		requests[i].commit = DatumGetBool(commits[i]);
		requests[i].mode = modes[i];
		requests[i].n = nns > 0 ? (uint64) DatumGetInt64(ns[i]) : 0;
	}
	return requests;
}

/*
 * dtx.branch_settle(nodes text[], timeline int4, horizon int8, gids text[],
 * commits bool[], modes text, ns int8[]); settle.h has what they are
 */
Datum
dtx_branch_settle(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	SettleCaller caller = {0};
	SettleRequest *requests;
	int			count;

	shmem_require();
	InitMaterializedSRF(fcinfo, 0);
	caller.nodes = text_list(PG_GETARG_ARRAYTYPE_P(0), "nodes");
	caller.timeline = (uint32) PG_GETARG_INT32(1);
	if (caller.nodes == NIL || PG_GETARG_INT64(2) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a node must ask, with a horizon that is not negative")));
	caller.horizon = (uint64) PG_GETARG_INT64(2);
	requests = read_requests(fcinfo, &count);
	participant_serve();
	settle_branches(requests, count, &caller);

	for (int i = 0; i <= count; i++)
	{
		Datum		values[4] = {0};
		bool		nulls[4] = {false, false, true, true};

		if (i < count)
		{
			values[0] = CStringGetTextDatum(requests[i].outcome);
			if (requests[i].detail != NULL)
				values[1] = CStringGetTextDatum(requests[i].detail);
			else
				nulls[1] = true;
		}
		else
		{
			nulls[0] = pg_atomic_read_u32(&shared->waiters) == 0;
			values[0] = CStringGetTextDatum(SETTLE_AWAITED);
			nulls[1] = true;
			nulls[2] = nulls[3] = false;
			values[2] = LSNGetDatum(GetXLogInsertRecPtr());
			values[3] = LSNGetDatum(durable_position());
		}
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

typedef struct Pending
{
	ReturnSetInfo *rsinfo;
	List	   *nodes;			/* char *: ids of the node that asks */
} Pending;

static void
put_pending(const Pending *pending, const char *gid_text, const char *superior,
			uint64 superior_n, bool resolved)
{
	Datum		values[4];
	bool		nulls[4] = {false};
	ListCell   *cell;

	foreach(cell, pending->nodes)
	{
		if (strcmp(lfirst(cell), superior) != 0)
			continue;
		values[0] = CStringGetTextDatum(gid_text);
		values[1] = Int64GetDatum((int64) superior_n);
		values[2] = CStringGetTextDatum(superior);
		values[3] = BoolGetDatum(resolved);
		tuplestore_putvalues(pending->rsinfo->setResult, pending->rsinfo->setDesc, values, nulls);
		break;
	}
}

static void
put_resolved(const char *gid_text, const char *superior, uint64 superior_n, void *arg)
{
	put_pending(arg, gid_text, superior, superior_n, true);
}

/* dtx.branch_pending(nodes text[], timeline int4): gids in doubt that these ids
 * of a node began, its local transaction, which of the ids, and whether an operator
 * has decided it here: then the node's own decision is to be heard */
Datum
dtx_branch_pending(PG_FUNCTION_ARGS)
{
	Pending		pending = {(ReturnSetInfo *) fcinfo->resultinfo};
	List	   *nodes;
	List	   *held;
	ListCell   *cell;
	OwnScan		scan;
	HeapTuple	tuple;

	shmem_require();
	settings_of_settling();
	InitMaterializedSRF(fcinfo, 0);
	nodes = pending.nodes = text_list(PG_GETARG_ARRAYTYPE_P(0), "nodes");
	if (nodes != NIL)
		participant_check_timeline(linitial(nodes), (uint32) PG_GETARG_INT32(1));
	/* first what has no visible row: it may get one meanwhile */
	held = modes_list_held();
	own_scan_all(&scan, OWN_JOINED_BRANCH, AccessShareLock);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		char	   *gid_text = TextDatumGetCString(own_column(&scan, tuple, Anum_joined_branch_gid, NULL));
		JoinedBranch branch = {0};
		Gid			gid;
		bool		isnull;
		Datum		superior = own_column(&scan, tuple, Anum_joined_branch_superior, &isnull);

		if (DatumGetChar(own_column(&scan, tuple, Anum_joined_branch_state, NULL)) != 'd' ||
			!gid_parse(gid_text, &gid))
			continue;
		/* what this role could not settle is another one's to ask for */
		branch.role = DatumGetObjectId(own_column(&scan, tuple, Anum_joined_branch_role, NULL));
		branch.mode = DatumGetChar(own_column(&scan, tuple, Anum_joined_branch_mode, NULL));
		branch.children = DatumGetInt32(own_column(&scan, tuple, Anum_joined_branch_children, NULL));
		if (branch.children > 0)
			branch.local_n = (uint64) DatumGetInt64(own_column(&scan, tuple, Anum_joined_branch_local_n, NULL));
		if (!settle_allowed(&branch))
			continue;
		put_pending(&pending, gid_text,
					isnull ? gid.xid.node : TextDatumGetCString(superior),
					isnull ? gid.xid.n :
					(uint64) DatumGetInt64(own_column(&scan, tuple, Anum_joined_branch_superior_n, NULL)), false);
	}
	own_scan_end(&scan);
	foreach(cell, held)
	{
		HeldBranch *branch = lfirst(cell);

		if (branch->role == GetUserId() || superuser())
			put_pending(&pending, branch->gid_text, branch->superior, branch->superior_n, false);
	}
	resolutions_open(put_resolved, &pending);
	return (Datum) 0;
}

/*
 * dtx.branch_flush(): all that has been settled before this call is durable
 * when it has committed. An ordinary synchronous commit does that, and waits
 * for synchronous standbys too.
 */
Datum
dtx_branch_flush(PG_FUNCTION_ARGS)
{
	settings_of_settling();
	(void) GetTopTransactionId();
	if (synchronous_commit < SYNCHRONOUS_COMMIT_REMOTE_FLUSH)
		setting_local("synchronous_commit", "on");
	ForceSyncCommit();
	PG_RETURN_VOID();
}

/* dtx_ping(server name): greets the peer over a checked connection */
Datum
dtx_ping(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Datum		values[2];
	bool		nulls[2] = {0};
	Oid			server;
	PeerConnection *pc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR), errmsg("return type must be a row type")));
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("server of dtx_ping must not be null")));
	server = peer_server_by_name(NameStr(*PG_GETARG_NAME(0)), GetUserId());
	pc = connection_get(server, GetUserId(), 0);
	connection_greet(pc, 0);
	values[0] = CStringGetTextDatum(pc->peer_node);
	values[1] = CStringGetTextDatum(pc->peer_version);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
