/*
 * peer_api.c
 *		The functions of schema dtx that a coordinator calls at a participant,
 *		and dtx_ping, which looks at a peer from here.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "core/compat.h"
#include "core/node.h"
#include "core/override.h"
#include "core/participant.h"
#include "core/relations.h"
#include "core/settle.h"
#include "core/shmem.h"
#include "fmgr.h"
#include "funcapi.h"
#include "net/connection.h"
#include "net/peer.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(dtx_peer_hello);
PG_FUNCTION_INFO_V1(dtx_branch_join);
PG_FUNCTION_INFO_V1(dtx_branch_settle);
PG_FUNCTION_INFO_V1(dtx_branch_pending);
PG_FUNCTION_INFO_V1(dtx_branch_flush);
PG_FUNCTION_INFO_V1(dtx_ping);

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
	values[0] = CStringGetTextDatum(node_self());
	values[1] = Int32GetDatum(DTX_PROTOCOL_VERSION);
	values[2] = CStringGetTextDatum(PG_VERSION);
	values[3] = BoolGetDatum(RecoveryInProgress());
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/* dtx.branch_join(gid text, mode text, flags int4, lock_timeout int4) */
Datum
dtx_branch_join(PG_FUNCTION_ARGS)
{
	char	   *gid = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *mode = text_to_cstring(PG_GETARG_TEXT_PP(1));

	PG_RETURN_TEXT_P(cstring_to_text(participant_join(gid, mode, PG_GETARG_INT32(2),
													  PG_GETARG_INT32(3))));
}

/* dtx.branch_settle(gids text[], commits bool[], horizon int8) */
Datum
dtx_branch_settle(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum	   *gids,
			   *commits;
	bool	   *gid_nulls,
			   *commit_nulls;
	int			ngids,
				ncommits;
	SettleRequest *requests;

	shmem_require();
	InitMaterializedSRF(fcinfo, 0);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), TEXTOID, -1, false, TYPALIGN_INT,
					  &gids, &gid_nulls, &ngids);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), BOOLOID, 1, true, TYPALIGN_CHAR,
					  &commits, &commit_nulls, &ncommits);
	if (ngids != ncommits)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("each branch to settle needs one decision")));
	if (PG_GETARG_INT64(2) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("horizon must not be negative")));
	requests = palloc0(ngids * sizeof(SettleRequest));
	for (int i = 0; i < ngids; i++)
	{
		if (gid_nulls[i] || commit_nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("branches and decisions must not be null")));
		requests[i].gid = TextDatumGetCString(gids[i]);
		requests[i].commit = DatumGetBool(commits[i]);
	}
	settle_branches(requests, ngids, (uint64) PG_GETARG_INT64(2));

	for (int i = 0; i <= ngids; i++)
	{
		Datum		values[4] = {0};
		bool		nulls[4] = {false, false, true, true};

		if (i < ngids)
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

/* dtx.branch_pending(nodes text[]): gids in doubt of those coordinators */
Datum
dtx_branch_pending(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum	   *nodes;
	int			nnodes;
	OwnScan		scan;
	HeapTuple	tuple;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), TEXTOID, -1, false, TYPALIGN_INT,
					  &nodes, NULL, &nnodes);
	own_scan_all(&scan, OWN_JOINED_BRANCH, AccessShareLock);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		Datum		id = own_column(&scan, tuple, Anum_joined_branch_gid, NULL);
		Datum		values[1];
		bool		nulls[1] = {false};
		Gid			gid;

		if (DatumGetChar(own_column(&scan, tuple, Anum_joined_branch_state, NULL)) != 'd' ||
			(DatumGetObjectId(own_column(&scan, tuple, Anum_joined_branch_role, NULL)) != GetUserId() &&
			 !superuser()) ||
			!gid_parse(TextDatumGetCString(id), &gid))
			continue;
		for (int i = 0; i < nnodes; i++)
		{
			if (strcmp(TextDatumGetCString(nodes[i]), gid.xid.node) != 0)
				continue;
			values[0] = id;
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
			break;
		}
	}
	own_scan_end(&scan);
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
