/*
 * call.c
 *		Calling an action's functions with arguments from JSON.
 */
#include "postgres.h"

#include "catalog/pg_collation_d.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "core/compat.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "tcc/tcc.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

static const char *running_gid = NULL;

const char *
tcc_running_gid(void)
{
	return running_gid;
}

static JsonbValue *
find_argument(Jsonb *args, const char *name, JsonbValue *room)
{
	return getKeyJsonValueFromContainer(&args->root, name, strlen(name), room);
}

void
tcc_check_arguments(const TccAction *action, Jsonb *args)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;

	if (!JB_ROOT_IS_OBJECT(args))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("arguments of action \"%s\" must be a JSON object", action->name)));
	for (int i = 0; i < action->nargs; i++)
		if (find_argument(args, action->names[i], &v) == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("argument \"%s\" of action \"%s\" is missing", action->names[i], action->name),
					 errhint("JSON null passes NULL.")));
	it = JsonbIteratorInit(&args->root);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		bool		known = false;

		if (token != WJB_KEY)
			continue;
		for (int i = 0; i < action->nargs; i++)
			known |= strlen(action->names[i]) == v.val.string.len &&
				memcmp(action->names[i], v.val.string.val, v.val.string.len) == 0;
		if (!known)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("action \"%s\" has no argument \"%s\"", action->name,
							pnstrdup(v.val.string.val, v.val.string.len))));
	}
}

/* A JSON array or object as a Datum of an array or composite type. Without a modifier:
 * character alone would be char(1). */
static Datum
convert_container(JsonbValue *v, Oid type, bool *isnull)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			types[1] = {JSONBOID};
	Datum		values[1] = {JsonbPGetDatum(JsonbValueToJsonb(v))};
	Datum		value;

	SPI_connect();
	if (SPI_execute_with_args(psprintf("SELECT x.v FROM pg_catalog.jsonb_to_record("
									   "pg_catalog.jsonb_build_object('v', $1)) AS x(v %s)",
									   format_type_extended(type, -1, FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY)),
							  1, types, values, NULL, true, 1) != SPI_OK_SELECT || SPI_processed != 1)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not convert a JSON value to type %s", format_type_be(type))));
	value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, isnull);
	if (!*isnull)
	{
		MemoryContext old = MemoryContextSwitchTo(context);

		value = datumCopy(value, get_typbyval(type), get_typlen(type));
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	return value;
}

/* One argument as a Datum of its type. */
static Datum
convert(JsonbValue *v, Oid type, bool *isnull)
{
	Oid			input,
				ioparam;
	char	   *text;

	*isnull = v->type == jbvNull;
	if (*isnull)
	{
		/* a domain may not take it */
		getTypeInputInfo(type, &input, &ioparam);
		return OidInputFunctionCall(input, NULL, ioparam, -1);
	}
	if (getBaseType(type) == JSONBOID || getBaseType(type) == JSONOID)
		text = JsonbToCString(NULL, &JsonbValueToJsonb(v)->root, 0);
	else if (v->type == jbvBinary)
		return convert_container(v, type, isnull);
	else if (v->type == jbvString)
		text = pnstrdup(v->val.string.val, v->val.string.len);
	else if (v->type == jbvBool)
		text = pstrdup(v->val.boolean ? "true" : "false");
	else
		text = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(v->val.numeric)));
	getTypeInputInfo(type, &input, &ioparam);
	return OidInputFunctionCall(input, text, ioparam, -1);
}

/* The same, with an error that names the argument. */
static Datum
convert_argument(const char *action, const char *name, JsonbValue *v, Oid type, bool *isnull)
{
	MemoryContext context = CurrentMemoryContext;
	volatile Datum value = (Datum) 0;

	PG_TRY();
	{
		value = convert(v, type, isnull);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_DATA_EXCEPTION &&
			ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION &&
			ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION)
			PG_RE_THROW();
		FlushErrorState();
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"%s\" of action \"%s\" is not of type %s", name, action,
						format_type_be(type)),
				 errdetail_internal("%s", error->message)));
	}
	PG_END_TRY();
	return value;
}

static Jsonb *
result_as_jsonb(Datum value, bool isnull, Oid type)
{
	FmgrInfo	flinfo;
	LOCAL_FCINFO(fcinfo, 1);
	Const	   *constant;
	int16		length;
	bool		by_value;

	if (isnull || type == VOIDOID)
		return NULL;
	if (type == JSONBOID)
		return DatumGetJsonbP(value);
	/* to_jsonb finds the type of its argument in the expression that it is called from */
	get_typlenbyval(type, &length, &by_value);
	constant = makeConst(type, -1, InvalidOid, length, value, false, by_value);
	fmgr_info(F_TO_JSONB, &flinfo);
	fmgr_info_set_expr((Node *) makeFuncExpr(F_TO_JSONB, JSONBOID, list_make1(constant), InvalidOid,
											 InvalidOid, COERCE_EXPLICIT_CALL), &flinfo);
	InitFunctionCallInfoData(*fcinfo, &flinfo, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = value;
	fcinfo->args[0].isnull = false;
	return DatumGetJsonbP(FunctionCallInvoke(fcinfo));
}

Jsonb *
tcc_call(const char *action_name, Oid function, const char *gid, Jsonb *args)
{
	TccAction	action = {.name = (char *) action_name};
	FmgrInfo	flinfo;
	FunctionCallInfo fcinfo;
	const char *outer = running_gid;
	Datum		volatile result = (Datum) 0;
	bool		volatile isnull = true;
	bool		volatile skip = false;

	if (!OidIsValid(function))
		return NULL;
	action_read_arguments(&action, function);
	if (dtx_function_aclcheck(function, GetUserId()) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FUNCTION, get_func_name(function));
	fmgr_info(function, &flinfo);
	fcinfo = palloc0(SizeForFunctionCallInfo(action.nargs));
	InitFunctionCallInfoData(*fcinfo, &flinfo, action.nargs, DEFAULT_COLLATION_OID, NULL, NULL);
	for (int i = 0; i < action.nargs; i++)
	{
		JsonbValue	room;
		JsonbValue *v = find_argument(args, action.names[i], &room);

		/* checked when it was tried; the function may have been replaced since */
		if (v == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("argument \"%s\" of action \"%s\" is missing", action.names[i], action_name)));
		fcinfo->args[i].value = convert_argument(action_name, action.names[i], v, action.types[i],
												 &fcinfo->args[i].isnull);
		skip |= flinfo.fn_strict && fcinfo->args[i].isnull;
	}
	if (skip)
		return NULL;

	running_gid = gid;
	PG_TRY();
	{
		result = FunctionCallInvoke(fcinfo);
		isnull = fcinfo->isnull;
	}
	PG_FINALLY();
	{
		running_gid = outer;
	}
	PG_END_TRY();
	return result_as_jsonb(result, isnull, get_func_rettype(function));
}
