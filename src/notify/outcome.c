/*
 * outcome.c
 *		The sender's side of reconciliation: answering who asks for a result.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "core/api.h"
#include "core/node.h"
#include "core/own_sql.h"
#include "core/shmem.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

ENTRY_POINT(dtx_outcome, 1);
PG_FUNCTION_INFO_V1(dtx_peer_outcome);

/* Run a query with what the statement that calls can see: these functions are STABLE. */
static void
query(const char *sql, int nargs, Oid *types, Datum *values)
{
	if (SPI_execute_with_args(sql, nargs, types, values, NULL, true, 0) != SPI_OK_SELECT)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not read dtx.notification")));
}

#define OUTCOME_COLUMNS	9

/* dtx_outcome(tx_no text) */
static Datum
dtx_outcome_given(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid			types[] = {TEXTOID, OIDOID};
	Datum		row[] = {PG_GETARG_DATUM(0), ObjectIdGetDatum(GetUserId())};
	OwnSql		sql;

	shmem_require();
	InitMaterializedSRF(fcinfo, 0);
	own_sql_begin(&sql);
	query("SELECT s.srvname::text, CASE n.state WHEN 'r' THEN 'registered' WHEN 'd' THEN 'delivered' WHEN 'x' THEN 'exhausted'"
		  " WHEN 'g' THEN 'discarded' ELSE 'pending' END, n.payload, n.attempts, n.notified_at,"
		  " CASE WHEN n.state = 'd' THEN n.changed_at END, n.next_attempt, n.last_status, n.last_error"
		  " FROM dtx.notification n LEFT JOIN pg_foreign_server s ON s.oid = n.server"
		  " WHERE n.tx_no = $1 AND dtx.may_ask($2, n.server, n.role) ORDER BY n.id", lengthof(types), types, row);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		Datum		values[OUTCOME_COLUMNS];
		bool		nulls[OUTCOME_COLUMNS];

		for (int c = 0; c < OUTCOME_COLUMNS; c++)
			values[c] = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, c + 1, &nulls[c]);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	own_sql_end(&sql);
	stat_add(STAT_OUTCOMES_ASKED, 1);
	return (Datum) 0;
}

/*
 * dtx.outcome(tx_no text, nodes text[]): the one result for the node that asks, which
 * gives its ids: what it is told itself, as far as is known who that is; or what all are
 */
Datum
dtx_peer_outcome(PG_FUNCTION_ARGS)
{
	Oid			types[] = {TEXTOID, OIDOID, TEXTARRAYOID};
	Datum		row[] = {PG_GETARG_DATUM(0), ObjectIdGetDatum(GetUserId()), PG_GETARG_DATUM(1)};
	MemoryContext context = CurrentMemoryContext;
	Datum		values[5] = {0};
	bool		nulls[5] = {false, false, true, true, true};
	TupleDesc	desc;
	uint64		found;
	OwnSql		sql;

	shmem_require();
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("function returning record called in context that cannot accept type record")));
	values[0] = CStringGetTextDatum(node_origin());
	own_sql_begin(&sql);
	query("WITH o AS (SELECT n.id, n.payload, n.notified_at, n.attempts, EXISTS (SELECT FROM dtx.target t WHERE t.server = n.server AND t.role = n.role AND t.node = ANY ($3)) AS asker"
		  " FROM dtx.notification n WHERE n.tx_no = $1 AND dtx.may_ask($2, n.server, n.role))"
		  " SELECT DISTINCT ON (payload) payload, notified_at, attempts FROM o WHERE asker OR NOT EXISTS (SELECT FROM o WHERE asker) ORDER BY payload, id",
		  lengthof(types), types, row);
	found = SPI_processed;
	values[1] = BoolGetDatum(found > 0);
	if (found == 1)
	{
		HeapTuple	tuple = SPI_tuptable->vals[0];
		MemoryContext old = MemoryContextSwitchTo(context);

		values[2] = PointerGetDatum(PG_DETOAST_DATUM_COPY(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &nulls[2])));
		values[3] = SPI_getbinval(tuple, SPI_tuptable->tupdesc, 2, &nulls[3]);
		values[4] = SPI_getbinval(tuple, SPI_tuptable->tupdesc, 3, &nulls[4]);
		MemoryContextSwitchTo(old);
	}
	own_sql_end(&sql);
	if (found > 1)
		ereport(ERROR,
				(errcode(ERRCODE_CARDINALITY_VIOLATION),
				 errmsg("transaction \"%s\" has results that differ from one target to the other",
						text_to_cstring(PG_GETARG_TEXT_PP(0))),
				 errhint("Ask with dtx_outcome.")));
	stat_add(STAT_OUTCOMES_ASKED, 1);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
