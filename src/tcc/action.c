/*
 * action.c
 *		The actions that this database offers: dtx.tcc_action.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "core/compat.h"
#include "core/relations.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "tcc/tcc.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

/* The row of an action in an open scan, or NULL. */
static HeapTuple
find_action(OwnScan *scan, const char *name)
{
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = own_scan_next(scan)))
	{
		text	   *action = DatumGetTextPP(own_column(scan, tuple, Anum_tcc_action_action, NULL));

		if (VARSIZE_ANY_EXHDR(action) == strlen(name) &&
			memcmp(VARDATA_ANY(action), name, strlen(name)) == 0)
			return tuple;
	}
	return NULL;
}

TccAction *
action_lookup(const char *name)
{
	TccAction  *action = palloc0(sizeof(TccAction));
	OwnScan		scan;
	HeapTuple	tuple;
	Datum	   *names,
			   *types;
	int			ntypes;

	own_scan_all(&scan, OWN_TCC_ACTION, AccessShareLock);
	tuple = find_action(&scan, name);
	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("action \"%s\" does not exist", name),
				 errhint("dtx_tcc_define defines it in the database where it is to run.")));
	action->name = pstrdup(name);
	action->owner = DatumGetObjectId(own_column(&scan, tuple, Anum_tcc_action_owner, NULL));
	action->functions[TCC_TRY] = DatumGetObjectId(own_column(&scan, tuple, Anum_tcc_action_try, NULL));
	action->functions[TCC_CONFIRM] = DatumGetObjectId(own_column(&scan, tuple, Anum_tcc_action_confirm, NULL));
	action->functions[TCC_CANCEL] = DatumGetObjectId(own_column(&scan, tuple, Anum_tcc_action_cancel, NULL));
	deconstruct_array(DatumGetArrayTypePCopy(own_column(&scan, tuple, Anum_tcc_action_names, NULL)),
					  TEXTOID, -1, false, TYPALIGN_INT, &names, NULL, &action->nargs);
	deconstruct_array(DatumGetArrayTypePCopy(own_column(&scan, tuple, Anum_tcc_action_types, NULL)),
					  OIDOID, 4, true, TYPALIGN_INT, &types, NULL, &ntypes);
	action->names = palloc(action->nargs * sizeof(char *));
	action->types = palloc(action->nargs * sizeof(Oid));
	for (int i = 0; i < action->nargs; i++)
	{
		action->names[i] = TextDatumGetCString(names[i]);
		action->types[i] = DatumGetObjectId(types[i]);
	}
	own_scan_end(&scan);
	return action;
}

void
action_read_arguments(TccAction *action, Oid function)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Form_pg_proc form;
	Oid		   *types;
	char	  **names;
	char	   *modes;
	int			nargs;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function with OID %u does not exist", function)));
	form = (Form_pg_proc) GETSTRUCT(tuple);
	if (form->prokind != PROKIND_FUNCTION || form->proretset)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("%s cannot be a function of an action", format_procedure(function)),
				 errdetail("It must be a plain function that does not return a set.")));
	nargs = get_func_arg_info(tuple, &types, &names, &modes);
	for (int i = 0; i < nargs; i++)
		if ((modes != NULL && modes[i] != PROARGMODE_IN) || names == NULL || names[i] == NULL ||
			names[i][0] == '\0' || get_typtype(types[i]) == TYPTYPE_PSEUDO)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
					 errmsg("%s cannot be a function of an action", format_procedure(function)),
					 errdetail("Its arguments must be plain IN arguments, have names, and no polymorphic types.")));
	action->nargs = nargs;
	action->names = names;
	action->types = types;
	ReleaseSysCache(tuple);
}

static void
check_owner(const char *name, Oid owner)
{
	if (!has_privs_of_role(GetUserId(), owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of action \"%s\"", name)));
}

void
action_store(const TccAction *action)
{
	Datum		values[Natts_tcc_action] = {0};
	bool		nulls[Natts_tcc_action] = {0};
	Datum	   *names = palloc(Max(action->nargs, 1) * sizeof(Datum));
	Datum	   *types = palloc(Max(action->nargs, 1) * sizeof(Datum));
	OwnScan		scan;
	HeapTuple	tuple;

	/* one session at a time */
	own_scan_all(&scan, OWN_TCC_ACTION, ShareRowExclusiveLock);
	tuple = find_action(&scan, action->name);
	if (HeapTupleIsValid(tuple))
	{
		check_owner(action->name, DatumGetObjectId(own_column(&scan, tuple, Anum_tcc_action_owner, NULL)));
		own_delete(&scan, tuple);
	}
	own_scan_end(&scan);
	for (int i = 0; i < action->nargs; i++)
	{
		names[i] = CStringGetTextDatum(action->names[i]);
		types[i] = ObjectIdGetDatum(action->types[i]);
	}
	values[Anum_tcc_action_action - 1] = CStringGetTextDatum(action->name);
	values[Anum_tcc_action_owner - 1] = ObjectIdGetDatum(GetUserId());
	values[Anum_tcc_action_try - 1] = ObjectIdGetDatum(action->functions[TCC_TRY]);
	values[Anum_tcc_action_confirm - 1] = ObjectIdGetDatum(action->functions[TCC_CONFIRM]);
	values[Anum_tcc_action_cancel - 1] = ObjectIdGetDatum(action->functions[TCC_CANCEL]);
	values[Anum_tcc_action_names - 1] =
		PointerGetDatum(construct_array(names, action->nargs, TEXTOID, -1, false, TYPALIGN_INT));
	values[Anum_tcc_action_types - 1] =
		PointerGetDatum(construct_array(types, action->nargs, OIDOID, 4, true, TYPALIGN_INT));
	values[Anum_tcc_action_defined_at - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	own_insert(OWN_TCC_ACTION, values, nulls);
}

void
action_remove(const char *name)
{
	OwnScan		scan;
	HeapTuple	tuple;

	own_scan_all(&scan, OWN_TCC_ACTION, ShareRowExclusiveLock);
	tuple = find_action(&scan, name);
	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("action \"%s\" does not exist", name)));
	check_owner(name, DatumGetObjectId(own_column(&scan, tuple, Anum_tcc_action_owner, NULL)));
	own_delete(&scan, tuple);
	own_scan_end(&scan);
}
