/*
 * tcc.c
 *		TCC as a mode: tries, confirms, cancels, and the logs that guard them.
 *
 * Each guard inserts first, and never checks first. The key of dtx.try_log
 * arbitrates: a cancel that comes before its try inserts the try's key itself,
 * and whichever of the two comes second runs into the other's row.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "core/compat.h"
#include "core/errors.h"
#include "core/fault.h"
#include "core/node.h"
#include "core/participant.h"
#include "core/peer_use.h"
#include "core/relations.h"
#include "core/shmem.h"
#include "core/tombstone.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgtime.h"
#include "storage/lmgr.h"
#include "tcc/tcc.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

PG_FUNCTION_INFO_V1(dtx_tcc_confirm_local);

/* A row of dtx.try_log. */
typedef struct Try
{
	Oid			role;
	char	   *action;			/* NULL: a cancel came, and the try never shall */
	Oid			confirm;
	Oid			cancel;
	Jsonb	   *args;
	Datum		settings;		/* that the try ran with: text[] of names and values */
} Try;

/*
 * The present search path, for calls that are made later. A function that runs as
 * another role than its caller (SECURITY DEFINER) has set a path that it trusts;
 * where that does not say where the caller's temporary tables are to be looked for,
 * it is last: PostgreSQL would do it first.
 */
static char *
path_to_keep(void)
{
	List	   *schemas;
	ListCell   *cell;

	if (GetUserId() == GetOuterUserId() ||
		!SplitIdentifierString(pstrdup(namespace_search_path), ',', &schemas))
		return namespace_search_path;
	foreach(cell, schemas)
		if (strcmp(lfirst(cell), "pg_temp") == 0)
			return namespace_search_path;
	return psprintf("%s%spg_temp", namespace_search_path, schemas == NIL ? "" : ", ");
}

/* A branch overrides parts of it, which the setting's text does not tell. */
static char *
date_style(void)
{
	return psprintf("%s, %s", DateStyle == USE_ISO_DATES ? "ISO" : DateStyle == USE_SQL_DATES ? "SQL" :
					DateStyle == USE_GERMAN_DATES ? "German" : "Postgres",
					DateOrder == DATEORDER_YMD ? "YMD" : DateOrder == DATEORDER_DMY ? "DMY" : "MDY");
}

/*
 * What a call that is made later has to find as it is now: where names are looked up,
 * and how the arguments, which are texts, are read as dates and times. A caller who
 * changes that between try and confirm would have it confirm something else.
 */
static Datum
settings_to_keep(void)
{
	Datum		items[] = {
		CStringGetTextDatum("search_path"), CStringGetTextDatum(path_to_keep()),
		CStringGetTextDatum("DateStyle"), CStringGetTextDatum(date_style()),
		CStringGetTextDatum("IntervalStyle"), CStringGetTextDatum(GetConfigOption("IntervalStyle", false, false)),
		CStringGetTextDatum("TimeZone"), CStringGetTextDatum(pg_get_timezone_name(session_timezone))
	};

	return PointerGetDatum(construct_array(items, lengthof(items), TEXTOID, -1, false, TYPALIGN_INT));
}

/* --- rows --- */

static void
form_try(Datum *values, bool *nulls, const char *gid_text, Oid role, const TccAction *action,
		 Jsonb *args, Datum settings, bool local)
{
	Gid			gid;

	gid_parse_or_error(gid_text, &gid);
	values[Anum_try_log_branch - 1] = Int64GetDatum(gid_branch_key(&gid, gid_text));
	values[Anum_try_log_gid - 1] = CStringGetTextDatum(gid_text);
	values[Anum_try_log_role - 1] = ObjectIdGetDatum(role);
	values[Anum_try_log_tried_at - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	nulls[Anum_try_log_action - 1] = nulls[Anum_try_log_args - 1] = nulls[Anum_try_log_settings - 1] = action == NULL;
	values[Anum_try_log_confirm - 1] = ObjectIdGetDatum(action ? action->functions[TCC_CONFIRM] : InvalidOid);
	values[Anum_try_log_cancel - 1] = ObjectIdGetDatum(action ? action->functions[TCC_CANCEL] : InvalidOid);
	if (action != NULL)
	{
		values[Anum_try_log_action - 1] = CStringGetTextDatum(action->name);
		values[Anum_try_log_args - 1] = JsonbPGetDatum(args);
		values[Anum_try_log_settings - 1] = settings;
	}
	values[Anum_try_log_local - 1] = BoolGetDatum(local);
}

static bool
find_try(int64 key, const char *gid_text, Try *try)
{
	OwnScan		scan;
	HeapTuple	tuple;
	bool		found = false;
	bool		isnull;
	Datum		value;

	own_scan_int8(&scan, OWN_TRY_LOG, OWN_TRY_LOG_PKEY, AccessShareLock, key);
	while (!found && HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		if (strcmp(TextDatumGetCString(own_column(&scan, tuple, Anum_try_log_gid, NULL)), gid_text) != 0)
			continue;
		found = true;
		try->role = DatumGetObjectId(own_column(&scan, tuple, Anum_try_log_role, NULL));
		value = own_column(&scan, tuple, Anum_try_log_action, &isnull);
		try->action = isnull ? NULL : TextDatumGetCString(value);
		try->confirm = DatumGetObjectId(own_column(&scan, tuple, Anum_try_log_confirm, NULL));
		try->cancel = DatumGetObjectId(own_column(&scan, tuple, Anum_try_log_cancel, NULL));
		value = own_column(&scan, tuple, Anum_try_log_args, &isnull);
		try->args = isnull ? NULL : DatumGetJsonbPCopy(value);
		value = own_column(&scan, tuple, Anum_try_log_settings, &isnull);
		try->settings = isnull ? 0 : PointerGetDatum(DatumGetArrayTypePCopy(value));
	}
	own_scan_end(&scan);
	return found;
}

/* Insert into dtx.confirm_log or dtx.cancel_log; false: it is there. */
static bool
insert_end(OwnRelation log, const JoinedBranch *branch, bool ran)
{
	Datum		values[Natts_end_log] = {0};
	bool		nulls[Natts_end_log] = {0};

	values[Anum_end_log_branch - 1] = Int64GetDatum(branch->key);
	values[Anum_end_log_gid - 1] = CStringGetTextDatum(branch->gid_text);
	values[Anum_end_log_ended_at - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[Anum_end_log_ran - 1] = BoolGetDatum(ran);
	return own_insert_unique(log, values, nulls);
}

static void
delete_key(OwnRelation log, OwnRelation pkey, int64 key)
{
	OwnScan		scan;
	HeapTuple	tuple;

	own_scan_int8(&scan, log, pkey, RowExclusiveLock, key);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
		own_delete(&scan, tuple);
	own_scan_end(&scan);
}

/*
 * Call a confirm or cancel as its try was called: the caller has become the role. It
 * finds what the try found, and what it sets is undone: the session is another
 * caller's, or serves other branches. Other settings are the session's.
 */
static void
call_later(const Try *try, Oid function, const char *gid_text)
{
	int			nest = NewGUCNestLevel();
	Datum	   *items;
	int			count;

	deconstruct_array(DatumGetArrayTypeP(try->settings), TEXTOID, -1, false, TYPALIGN_INT, &items, NULL, &count);
	for (int i = 0; i + 1 < count; i += 2)
		(void) set_config_option(TextDatumGetCString(items[i]), TextDatumGetCString(items[i + 1]), PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	(void) tcc_call(try->action, function, gid_text, try->args);
	AtEOXact_GUC(false, nest);
}

static void
delete_tombstone(int64 key, const char *gid_text)
{
	OwnScan		scan;
	HeapTuple	tuple;

	own_scan_int8(&scan, OWN_TRY_LOG, OWN_TRY_LOG_PKEY, RowExclusiveLock, key);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		bool		tombstone;

		(void) own_column(&scan, tuple, Anum_try_log_action, &tombstone);
		if (tombstone && strcmp(TextDatumGetCString(own_column(&scan, tuple, Anum_try_log_gid, NULL)), gid_text) == 0)
			own_delete(&scan, tuple);
	}
	own_scan_end(&scan);
	delete_key(OWN_CANCEL_LOG, OWN_CANCEL_LOG_PKEY, key);
}

/* --- tries --- */

/* A cancel that came before the try, of a role that may not cancel it, says nothing:
 * it makes way. */
static bool
drop_others_tombstone(const char *gid_text, int64 key)
{
	Try			try;

	if (!find_try(key, gid_text, &try) || try.action != NULL || tombstone_binds(try.role, GetUserId()))
		return false;
	delete_tombstone(key, gid_text);
	return true;
}

/* The try's key is taken: why, unless it is not any more. */
static void
refuse_try(const char *gid_text, int64 key)
{
	Try			try;
	bool		found;

	if (drop_others_tombstone(gid_text, key))
		return;
	found = find_try(key, gid_text, &try);
	ereport(ERROR,
			(errcode(ERRCODE_DTX_BRANCH_STATE),
			 errmsg("could not try branch \"%s\"", gid_text),
			 errdetail_internal("%s", found && try.action == NULL ?
								"It was cancelled before it came." : "It was tried before.")));
}

/*
 * Whoever drops a function looks at the tries, those under way included. This
 * one's row is there already: if somebody is dropping, wait for that to end.
 */
static void
keep_functions(const TccAction *action)
{
	if (!peer_drop_under_way())
		return;
	for (int i = TCC_TRY; i <= TCC_CANCEL; i++)
	{
		if (!OidIsValid(action->functions[i]))
			continue;
		LockDatabaseObject(ProcedureRelationId, action->functions[i], 0, AccessShareLock);
		if (get_func_name(action->functions[i]) == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_FUNCTION),
					 errmsg("a function of action \"%s\" has been dropped", action->name),
					 errhint("Define the action again with dtx_tcc_define.")));
	}
}

/* Who tries must be able to confirm and to cancel: when it is decided it is too late. */
static void
check_may_end(const TccAction *action)
{
	static const char *const what[] = {NULL, "confirm", "cancel"};

	for (int i = TCC_CONFIRM; i <= TCC_CANCEL; i++)
		if (OidIsValid(action->functions[i]) &&
			dtx_function_aclcheck(action->functions[i], GetUserId()) != ACLCHECK_OK)
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("permission denied for function %s", get_func_name(action->functions[i])),
					 errdetail("Role \"%s\" could try action \"%s\", but not %s it.",
							   GetUserNameFromId(GetUserId(), true), action->name, what[i]),
					 errhint("GRANT EXECUTE ON FUNCTION %s TO %s;", format_procedure_qualified(action->functions[i]),
							 quote_identifier(GetUserNameFromId(GetUserId(), true)))));
}

static TccAction *
checked_action(const char *name, Jsonb *args)
{
	TccAction  *action = action_lookup(name);

	for (int i = TCC_TRY; i <= TCC_CANCEL; i++)
		if (OidIsValid(action->functions[i]) && get_func_name(action->functions[i]) == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_FUNCTION),
					 errmsg("a function of action \"%s\" has been dropped", name),
					 errhint("Define the action again with dtx_tcc_define.")));
	check_may_end(action);
	tcc_check_arguments(action, args);
	return action;
}

/* Insert the try's row, then run its function. */
static Jsonb *
try_with_gid(const char *gid_text, const TccAction *action, Jsonb *args)
{
	Datum		values[Natts_try_log] = {0};
	bool		nulls[Natts_try_log] = {0};

	form_try(values, nulls, gid_text, GetUserId(), action, args, settings_to_keep(), false);
	DTX_FAULT_POINT("tcc-before-try");
	if (!own_insert_unique(OWN_TRY_LOG, values, nulls))
		refuse_try(gid_text, DatumGetInt64(values[Anum_try_log_branch - 1]));
	CommandCounterIncrement();
	keep_functions(action);
	return tcc_call(action->name, action->functions[TCC_TRY], gid_text, args);
}

Jsonb *
tcc_try_here(const char *action_name, Jsonb *args)
{
	Jsonb	   *result;

	if (!current_branch.active || current_branch.mode->letter != 't')
		ereport(ERROR,
				(errcode(ERRCODE_DTX_BRANCH_STATE),
				 errmsg("dtx.tcc_try must be called in a branch of mode \"tcc\""),
				 errhint("Call dtx_try.")));
	result = try_with_gid(current_branch.gid_text, checked_action(action_name, args), args);
	DTX_FAULT_POINT("tcc-after-try");
	return result;
}

/* In a branch: a branch of that, in the same database. It has its own way to be
 * undone, so that its changes are not the superior's. */
static Jsonb *
try_in_branch(Branch *branch, const char *gid_text, const TccAction *action, Jsonb *args)
{
	Jsonb	   *volatile result = NULL;
	bool		outer = current_branch.capture_off;

	if (node_is_self(current_branch.gid.xid.node))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a joined transaction in the coordinator's own database cannot try an action here"),
				 errhint("Write to attached tables instead: they are undone by log.")));
	global_branch_advance(branch, BRANCH_SENT);
	global_branch_record(branch, node_self());
	current_branch.capture_off = true;
	PG_TRY();
	{
		result = try_with_gid(gid_text, action, args);
	}
	PG_FINALLY();
	{
		current_branch.capture_off = outer;
	}
	PG_END_TRY();
	return result;
}

/* The row by SQL, so that the deferred trigger fires that confirms. */
static void
insert_local_try(const char *gid_text, const TccAction *action, Jsonb *args, Datum settings)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[Natts_try_log] = {INT8OID, TEXTOID, OIDOID, TIMESTAMPTZOID, TEXTOID,
	OIDOID, OIDOID, JSONBOID, BOOLOID, TEXTARRAYOID};
	Datum		values[Natts_try_log] = {0};
	bool		nulls[Natts_try_log] = {0};
	char		flags[Natts_try_log + 1];
	Oid			user;
	int			security;

	form_try(values, nulls, gid_text, GetUserId(), action, args, settings, true);
	memset(flags, ' ', sizeof(flags));
	flags[Natts_try_log] = '\0';
	SPI_connect();
	GetUserIdAndSecContext(&user, &security);
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, security | SECURITY_LOCAL_USERID_CHANGE);
	if (plan == NULL)
	{
		plan = SPI_prepare("INSERT INTO dtx.try_log VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
						   Natts_try_log, (Oid *) types);
		if (plan == NULL || SPI_keepplan(plan) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not plan an insert into dtx.try_log")));
	}
	if (SPI_execute_plan(plan, values, flags, false, 0) != SPI_OK_INSERT)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not insert into dtx.try_log")));
	SetUserIdAndSecContext(user, security);
	SPI_finish();
}

Jsonb *
tcc_try_local(const char *action_name, Jsonb *args)
{
	char		gid_text[DTX_GID_SIZE];
	TccAction  *action;
	Branch	   *branch;
	Datum		settings;
	Jsonb	   *result;

	PreventCommandIfReadOnly("dtx_try()");
	global_ensure();
	action = checked_action(action_name, args);
	branch = global_branch_new(mode_by_letter('t'), InvalidOid, GetUserId());
	global_branch_gid(branch, gid_text);
	if (current_branch.active)
		return try_in_branch(branch, gid_text, action, args);
	settings = settings_to_keep();
	/* nobody else can have its key; and where constraints are immediate, the
	 * confirm follows at once */
	result = tcc_call(action->name, action->functions[TCC_TRY], gid_text, args);
	insert_local_try(gid_text, action, args, settings);
	keep_functions(action);
	return result;
}

/*
 * dtx.tcc_confirm_local(): the deferred trigger on dtx.try_log. It confirms a
 * try of the local transaction before that commits, among the other deferred
 * triggers: what it does is still checked by deferred constraints.
 */
Datum
dtx_tcc_confirm_local(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	TupleDesc	desc;
	HeapTuple	tuple;
	Try			try;
	Oid			user;
	int			security;
	bool		isnull;
	char	   *gid;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BY_INSERT(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		RelationGetRelid(trigger->tg_relation) != own_relid(OWN_TRY_LOG))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"dtx.tcc_confirm_local\" is a trigger of table \"dtx.try_log\"")));
	tuple = trigger->tg_trigtuple;
	desc = RelationGetDescr(trigger->tg_relation);
	try.role = DatumGetObjectId(heap_getattr(tuple, Anum_try_log_role, desc, &isnull));
	try.confirm = DatumGetObjectId(heap_getattr(tuple, Anum_try_log_confirm, desc, &isnull));
	gid = TextDatumGetCString(heap_getattr(tuple, Anum_try_log_gid, desc, &isnull));
	try.action = TextDatumGetCString(heap_getattr(tuple, Anum_try_log_action, desc, &isnull));
	try.args = DatumGetJsonbPCopy(heap_getattr(tuple, Anum_try_log_args, desc, &isnull));
	try.settings = PointerGetDatum(DatumGetArrayTypePCopy(heap_getattr(tuple, Anum_try_log_settings, desc, &isnull)));

	CommandCounterIncrement();
	/* it is over with this transaction: there is nobody who could ask again */
	own_delete_tid(OWN_TRY_LOG, &tuple->t_self);
	note_garbage(1);
	CommandCounterIncrement();
	DTX_FAULT_POINT("tcc-before-local-confirm");
	GetUserIdAndSecContext(&user, &security);
	if (user != try.role)
		SetUserIdAndSecContext(try.role, security | SECURITY_LOCAL_USERID_CHANGE);
	call_later(&try, try.confirm, gid);
	SetUserIdAndSecContext(user, security);
	return PointerGetDatum(NULL);
}

/* --- confirm and cancel --- */

static void
tcc_settle_commit(const JoinedBranch *branch)
{
	Try			try;
	bool		tried = find_try(branch->key, branch->gid_text, &try) && try.action != NULL;

	if (!insert_end(OWN_CONFIRM_LOG, branch, tried && OidIsValid(try.confirm)))
		return;					/* confirmed before */
	if (!tried)
		return;
	DTX_FAULT_POINT("tcc-before-confirm");
	call_later(&try, try.confirm, branch->gid_text);
	DTX_FAULT_POINT("tcc-after-confirm");
	stat_add(STAT_CONFIRMED, 1);
}

static void
tcc_settle_rollback(List *branches)
{
	ListCell   *cell;

	foreach(cell, branches)
	{
		JoinedBranch *branch = lfirst(cell);
		Try			try;
		bool		tried = find_try(branch->key, branch->gid_text, &try) && try.action != NULL;

		if (!insert_end(OWN_CANCEL_LOG, branch, tried && OidIsValid(try.cancel)))
			continue;			/* cancelled before */
		if (!tried)
			continue;
		DTX_FAULT_POINT("tcc-before-cancel");
		call_later(&try, try.cancel, branch->gid_text);
		DTX_FAULT_POINT("tcc-after-cancel");
		stat_add(STAT_CANCELLED, 1);
	}
}

/* The empty rollback: it takes the try's key, so that the try can never come. */
static void
tcc_settle_absent(const JoinedBranch *branch)
{
	Datum		values[Natts_try_log] = {0};
	bool		nulls[Natts_try_log] = {0};

	(void) drop_others_tombstone(branch->gid_text, branch->key);
	form_try(values, nulls, branch->gid_text, GetUserId(), NULL, NULL, 0, false);
	if (own_insert_unique(OWN_TRY_LOG, values, nulls))
		(void) insert_end(OWN_CANCEL_LOG, branch, false);
}

static void
tcc_forget(Datum *keys, int count)
{
	for (int i = 0; i < count; i++)
	{
		int64		key = DatumGetInt64(keys[i]);

		delete_key(OWN_TRY_LOG, OWN_TRY_LOG_PKEY, key);
		delete_key(OWN_CONFIRM_LOG, OWN_CONFIRM_LOG_PKEY, key);
		delete_key(OWN_CANCEL_LOG, OWN_CANCEL_LOG_PKEY, key);
	}
}

static PGresult *
tcc_run(Oid server, Oid role, const RemoteStatement *statement, int flags)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("statements have no place in a global transaction of mode \"tcc\""),
			 errhint("Call dtx_try, or begin the global transaction with mode 'at' or 'xa'.")));
}

/* --- drops --- */

static bool
is_ended(int64 key)
{
	static const OwnRelation logs[][2] = {{OWN_CONFIRM_LOG, OWN_CONFIRM_LOG_PKEY},
	{OWN_CANCEL_LOG, OWN_CANCEL_LOG_PKEY}};
	bool		ended = false;

	for (int i = 0; i < 2 && !ended; i++)
	{
		OwnScan		scan;

		own_scan_int8(&scan, logs[i][0], logs[i][1], AccessShareLock, key);
		ended = HeapTupleIsValid(own_scan_next(&scan));
		own_scan_end(&scan);
	}
	return ended;
}

void
tcc_guard_drop(Oid class_id, Oid object_id)
{
	OwnScan		scan;
	HeapTuple	tuple;
	bool		needed = false;

	if (class_id != ProcedureRelationId || shared == NULL || !own_table_exists(OWN_TRY_LOG) ||
		!own_table_exists(OWN_CONFIRM_LOG) || !own_table_exists(OWN_CANCEL_LOG))
		return;
	peer_drop_announce();
	own_scan_dirty(&scan, OWN_TRY_LOG, AccessShareLock);
	while (!needed && HeapTupleIsValid(tuple = own_scan_next(&scan)))
		needed = (DatumGetObjectId(own_column(&scan, tuple, Anum_try_log_confirm, NULL)) == object_id ||
				  DatumGetObjectId(own_column(&scan, tuple, Anum_try_log_cancel, NULL)) == object_id) &&
			!is_ended(DatumGetInt64(own_column(&scan, tuple, Anum_try_log_branch, NULL)));
	own_scan_end(&scan);
	if (needed)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("cannot drop function %s: branches that were tried are not confirmed or cancelled yet",
						format_procedure(object_id)),
				 errhint("Wait until they are; see the view dtx_branches.")));
}

static const BranchMode tcc_mode = {
	.letter = 't',
	.name = "tcc",
	.runs_user_code = true,
	.run = tcc_run,
	.settle_commit = tcc_settle_commit,
	.settle_rollback = tcc_settle_rollback,
	.settle_absent = tcc_settle_absent,
	.forget = tcc_forget,
};

void
tcc_register(void)
{
	mode_register(&tcc_mode);
}
