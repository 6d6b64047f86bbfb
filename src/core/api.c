/*
 * api.c
 *		Global transactions, as SQL calls them: dtx_begin, dtx_xid, dtx_exec,
 *		dtx_query.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "core/api.h"
#include "core/compat.h"
#include "core/global.h"
#include "core/participant.h"
#include "core/read.h"
#include "core/shmem.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(dtx_begin);
PG_FUNCTION_INFO_V1(dtx_xid);
PG_FUNCTION_INFO_V1(dtx_exec);
PG_FUNCTION_INFO_V1(dtx_query);

void
argument_required(FunctionCallInfo fcinfo, int i)
{
	Oid			function;
	HeapTuple	tuple;
	char	  **names = NULL;
	Oid		   *types;
	char	   *modes;

	if (!PG_ARGISNULL(i))
		return;
	function = fcinfo->flinfo->fn_oid;
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	if (HeapTupleIsValid(tuple))
	{
		(void) get_func_arg_info(tuple, &types, &names, &modes);
		ReleaseSysCache(tuple);
	}
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("argument \"%s\" of %s must not be null", names != NULL ? names[i] : "", get_func_name(function))));
}

void
arguments_required(FunctionCallInfo fcinfo, int n)
{
	for (int i = 0; i < n; i++)
		argument_required(fcinfo, i);
}

int64
interval_to_ms(const Interval *interval)
{
	double		ms = (double) interval->time / 1000.0 +
		((double) interval->day + (double) interval->month * DAYS_PER_MONTH) * (USECS_PER_DAY / 1000);

	if (!(ms >= 1 && ms <= PG_INT32_MAX))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("timeout must be between 1 millisecond and 24 days")));
	return (int64) ms;
}

int
transmission_modes(void)
{
	int			nest = NewGUCNestLevel();

	if (DateStyle != USE_ISO_DATES)
		(void) set_config_option("datestyle", "ISO", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	if (IntervalStyle != INTSTYLE_POSTGRES)
		(void) set_config_option("intervalstyle", "postgres", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	if (extra_float_digits < 1)
		(void) set_config_option("extra_float_digits", "1", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	return nest;
}

/* dtx_begin(mode text, timeout interval) */
Datum
dtx_begin(PG_FUNCTION_ARGS)
{
	char		id[DTX_GID_SIZE];

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("mode of a global transaction must not be null")));
	global_begin(mode_by_name(text_to_cstring(PG_GETARG_TEXT_PP(0))),
				 PG_ARGISNULL(1) ? 0 : interval_to_ms(PG_GETARG_INTERVAL_P(1)));
	xid_format(global_current(), id);
	PG_RETURN_TEXT_P(cstring_to_text(id));
}

/* dtx_xid() */
Datum
dtx_xid(PG_FUNCTION_ARGS)
{
	const GlobalXid *xid = current_branch.active ? &current_branch.gid.xid : global_current();
	char		id[DTX_GID_SIZE];

	if (xid == NULL)
		PG_RETURN_NULL();
	xid_format(xid, id);
	PG_RETURN_TEXT_P(cstring_to_text(id));
}

/*
 * The arguments after the statement, as parameters in text. The peer infers the
 * types of strings, as clients have it do, and of what is of a type that only this database
 * knows. text is what a parameter without a type is here (core/untyped.c), and stays
 * when a plan is analysed again; varchar is what JDBC makes of every string.
 */
static void
get_parameters(FunctionCallInfo fcinfo, RemoteStatement *statement)
{
	Datum	   *args;
	Oid		   *types;
	bool	   *nulls;
	Oid		   *sent;
	const char **values;
	int			n = PG_NARGS() > 2 ?
		extract_variadic_args(fcinfo, 2, true, &args, &types, &nulls) : 0;
	int			nest;

	if (n <= 0)
		return;
	if (n > 65535)
		ereport(ERROR,
				(errcode(ERRCODE_TOO_MANY_ARGUMENTS),
				 errmsg("a statement can have at most 65535 parameters")));
	sent = palloc0(n * sizeof(Oid));
	values = palloc0(n * sizeof(char *));
	nest = transmission_modes();
	for (int i = 0; i < n; i++)
	{
		Oid			output;
		bool		is_varlena;

		/* convert_unknown has made a literal without a type text */
		if (types[i] < FirstGenbkiObjectId && get_typtype(types[i]) != TYPTYPE_PSEUDO &&
			types[i] != TEXTOID && types[i] != VARCHAROID)
			sent[i] = types[i];
		if (nulls[i])
			continue;
		getTypeOutputInfo(types[i], &output, &is_varlena);
		values[i] = OidOutputFunctionCall(output, args[i]);
	}
	AtEOXact_GUC(true, nest);
	statement->nparams = n;
	statement->types = sent;
	statement->values = values;
}

static PGresult *
run_statement(FunctionCallInfo fcinfo, const char *function, int join_flags)
{
	RemoteStatement statement = {0};

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s of %s must not be null",
						PG_ARGISNULL(0) ? "server" : "statement", function)));
	statement.sql = text_to_cstring(PG_GETARG_TEXT_PP(1));
	get_parameters(fcinfo, &statement);
	if (!(join_flags & JOIN_NO_ROWS) && read_is_due())
		return read_run(NameStr(*PG_GETARG_NAME(0)), &statement);
	return global_run(NameStr(*PG_GETARG_NAME(0)), NULL, &statement, join_flags);
}

/* dtx_exec(server name, sql text [, VARIADIC "any"]) */
Datum
dtx_exec(PG_FUNCTION_ARGS)
{
	PGresult   *result = run_statement(fcinfo, "dtx_exec", JOIN_NO_ROWS);
	int64		rows = strtoll(PQcmdTuples(result), NULL, 10);

	PQclear(result);
	PG_RETURN_INT64(rows);
}

/* Read a result into the caller's tuple store, by its column definition list. */
static void
return_rows(ReturnSetInfo *rsinfo, PGresult *result)
{
	TupleDesc	desc = rsinfo->setDesc;
	AttInMetadata *input = TupleDescGetAttInMetadata(desc);
	char	  **values = palloc0(desc->natts * sizeof(char *));
	int			nest;

	if (PQnfields(result) != desc->natts)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("the statement returns %d columns, and the column definition list has %d",
						PQnfields(result), desc->natts)));
	nest = transmission_modes();
	for (int row = 0; row < PQntuples(result); row++)
	{
		for (int column = 0; column < desc->natts; column++)
			values[column] = PQgetisnull(result, row, column) ? NULL :
				PQgetvalue(result, row, column);
		tuplestore_puttuple(rsinfo->setResult, BuildTupleFromCStrings(input, values));
	}
	AtEOXact_GUC(true, nest);
}

/* dtx_query(server name, sql text [, VARIADIC "any"]) */
Datum
dtx_query(PG_FUNCTION_ARGS)
{
	PGresult   *result;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	result = run_statement(fcinfo, "dtx_query", 0);
	PG_TRY();
	{
		return_rows((ReturnSetInfo *) fcinfo->resultinfo, result);
	}
	PG_FINALLY();
	{
		PQclear(result);
	}
	PG_END_TRY();
	return (Datum) 0;
}
