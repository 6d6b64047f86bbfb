/*
 * api.c
 *		TCC, as SQL calls it: dtx_tcc_define, dtx_tcc_drop, dtx_try.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "core/api.h"
#include "core/compat.h"
#include "core/participant.h"
#include "core/shmem.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "net/peer.h"
#include "tcc/tcc.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"

PG_FUNCTION_INFO_V1(dtx_tcc_define);
ENTRY_POINT(dtx_tcc_drop, 1);
PG_FUNCTION_INFO_V1(dtx_tcc_try);
PG_FUNCTION_INFO_V1(dtx_try);

static void
refuse_in_branch(void)
{
	shmem_require();
	if (current_branch.active && !(current_branch.flags & JOIN_OWN_SESSION))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot define actions inside a branch")));
}

static void
check_same_arguments(const TccAction *action, Oid first, const TccAction *other, Oid function)
{
	bool		same = action->nargs == other->nargs;

	for (int i = 0; same && i < action->nargs; i++)
		same = strcmp(action->names[i], other->names[i]) == 0 && action->types[i] == other->types[i];
	if (!same)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("the functions of action \"%s\" do not fit together", action->name),
				 errdetail("%s and %s must have the same names and types of arguments.",
						   format_procedure(first), format_procedure(function))));
}

/* dtx_tcc_define(action text, try, confirm, cancel regprocedure) */
Datum
dtx_tcc_define(PG_FUNCTION_ARGS)
{
	TccAction	action = {0};
	Oid			first = InvalidOid;

	refuse_in_branch();
	if (PG_ARGISNULL(0) || VARSIZE_ANY_EXHDR(PG_GETARG_TEXT_PP(0)) == 0)
		ereport(ERROR,
				(errcode(PG_ARGISNULL(0) ? ERRCODE_NULL_VALUE_NOT_ALLOWED : ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("name of an action must not be null or empty")));
	action.name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	for (int i = TCC_TRY; i <= TCC_CANCEL; i++)
	{
		TccAction	other = {.name = action.name};

		if (PG_ARGISNULL(i + 1))
			continue;
		action.functions[i] = PG_GETARG_OID(i + 1);
		action_read_arguments(&other, action.functions[i]);
		if (dtx_function_aclcheck(action.functions[i], GetUserId()) != ACLCHECK_OK)
			aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FUNCTION, get_func_name(action.functions[i]));
		if (OidIsValid(first))
			check_same_arguments(&action, first, &other, action.functions[i]);
		else
		{
			first = action.functions[i];
			action.nargs = other.nargs;
			action.names = other.names;
			action.types = other.types;
		}
	}
	if (!OidIsValid(first))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("action \"%s\" has no function at all", action.name)));
	action_store(&action);
	PG_RETURN_VOID();
}

/* dtx_tcc_drop(action text) */
static Datum
dtx_tcc_drop_given(PG_FUNCTION_ARGS)
{
	refuse_in_branch();
	action_remove(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	PG_RETURN_VOID();
}

/* dtx.tcc_try(action text, args text): the participant's part of dtx_try */
Datum
dtx_tcc_try(PG_FUNCTION_ARGS)
{
	char	   *action = text_to_cstring(PG_GETARG_TEXT_PP(0));
	Jsonb	   *args = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text_to_cstring(PG_GETARG_TEXT_PP(1)))));
	Jsonb	   *result = tcc_try_here(action, args);

	if (result == NULL)
		PG_RETURN_NULL();
	PG_RETURN_JSONB_P(result);
}

Jsonb *
tcc_try_at(const char *server, const char *action, Jsonb *args)
{
	static const Oid types[2] = {TEXTOID, TEXTOID};
	const char *values[2];
	RemoteStatement statement = {0};
	PGresult   *result;
	Jsonb	   *volatile answer = NULL;

	values[0] = action;
	values[1] = JsonbToCString(NULL, &args->root, VARSIZE(args));
	statement.sql = "SELECT dtx.tcc_try($1, $2)";
	statement.nparams = 2;
	statement.types = types;
	statement.values = values;
	global_ensure();
	result = global_one_call(mode_by_letter('t'), peer_server_by_name(server, GetUserId()), GetUserId(),
							 &statement, 0);
	PG_TRY();
	{
		if (PQntuples(result) == 1 && PQnfields(result) == 1 && !PQgetisnull(result, 0, 0))
			answer = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(PQgetvalue(result, 0, 0))));
	}
	PG_FINALLY();
	{
		PQclear(result);
	}
	PG_END_TRY();
	return answer;
}

/* dtx_try(server name, action text, args jsonb) */
Datum
dtx_try(PG_FUNCTION_ARGS)
{
	Jsonb	   *result;
	char	   *action;
	Jsonb	   *args;

	shmem_require();
	if (PG_ARGISNULL(1) || PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("action and arguments of dtx_try must not be null")));
	action = text_to_cstring(PG_GETARG_TEXT_PP(1));
	args = PG_GETARG_JSONB_P(2);
	result = PG_ARGISNULL(0) ? tcc_try_local(action, args) :
		tcc_try_at(NameStr(*PG_GETARG_NAME(0)), action, args);
	if (result == NULL)
		PG_RETURN_NULL();
	PG_RETURN_JSONB_P(result);
}
