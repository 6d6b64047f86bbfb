/*
 * own_sql.c
 *		SQL on dtx's own tables.
 */
#include "postgres.h"

#include "catalog/pg_namespace.h"
#include "core/own_sql.h"
#include "core/relations.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/syscache.h"

static Oid
owner_of_schema(void)
{
	HeapTuple	tuple = SearchSysCache1(NAMESPACEOID, ObjectIdGetDatum(own_schema()));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_SCHEMA),
				 errmsg("schema \"dtx\" does not exist"),
				 errhint("Run CREATE EXTENSION dtx in this database.")));
	owner = ((Form_pg_namespace) GETSTRUCT(tuple))->nspowner;
	ReleaseSysCache(tuple);
	return owner;
}

void
own_sql_begin(OwnSql *state)
{
	GetUserIdAndSecContext(&state->role, &state->context);
	SetUserIdAndSecContext(owner_of_schema(),
						   state->context | SECURITY_LOCAL_USERID_CHANGE | SECURITY_NOFORCE_RLS);
	state->nest = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	SPI_connect();
}

void
own_sql_end(OwnSql *state)
{
	SPI_finish();
	AtEOXact_GUC(false, state->nest);
	SetUserIdAndSecContext(state->role, state->context);
}

static void
check_code(int code, const char *sql)
{
	if (code < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not run \"%s\": %s", sql, SPI_result_code_string(code))));
}

uint64
own_sql(const char *sql, int nargs, Oid *types, Datum *values, const char *nulls)
{
	check_code(SPI_execute_with_args(sql, nargs, types, values, nulls, false, 0), sql);
	return SPI_processed;
}

uint64
own_sql_saved(SPIPlanPtr *plan, const char *sql, int nargs, Oid *types, Datum *values, const char *nulls)
{
	if (*plan == NULL)
	{
		SPIPlanPtr	fresh = SPI_prepare(sql, nargs, types);

		check_code(fresh == NULL ? SPI_result : SPI_keepplan(fresh), sql);
		*plan = fresh;
	}
	check_code(SPI_execute_plan(*plan, values, nulls, false, 0), sql);
	return SPI_processed;
}
