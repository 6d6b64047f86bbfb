/*
 * dtx.c
 *		Load time: settings, shared memory, hooks, the launcher.
 */
#include "postgres.h"

#include "access/xact.h"
#include "at/at.h"
#include "at/fit.h"
#include "at/alter.h"
#include "at/guard.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_class.h"
#include "catalog/pg_largeobject.h"
#include "catalog/pg_trigger.h"
#include "core/callbacks.h"
#include "core/compat.h"
#include "core/escape.h"
#include "core/leftover.h"
#include "core/participant.h"
#include "core/read.h"
#include "core/relations.h"
#include "core/shmem.h"
#include "core/untyped.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "guc.h"
#include "miscadmin.h"
#include "msg/message.h"
#include "notify/notification.h"
#include "parser/analyze.h"
#include "storage/ipc.h"
#include "tcc/tcc.h"
#include "tcop/utility.h"
#include "worker/control.h"
#include "worker/worker.h"
#include "xa/xa.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

static shmem_request_hook_type next_shmem_request = NULL;
static shmem_startup_hook_type next_shmem_startup = NULL;
static post_parse_analyze_hook_type next_post_parse_analyze = NULL;
static ExecutorStart_hook_type next_executor_start = NULL;
static ProcessUtility_hook_type next_process_utility = NULL;
static object_access_hook_type next_object_access = NULL;

/* What the utility command that runs does to a table whose trigger it drops. */
static const char *trigger_drop_is = "detach";

static void
on_shmem_request(void)
{
	if (next_shmem_request)
		next_shmem_request();
	shmem_request();
}

static void
on_shmem_startup(void)
{
	if (next_shmem_startup)
		next_shmem_startup();
	shmem_startup();
}

static void
on_post_parse_analyze(ParseState *pstate, Query *query, DtxJumbleState *jumble)
{
	untyped_resolve(pstate, query);
	if (next_post_parse_analyze)
		next_post_parse_analyze(pstate, query, jumble);
}

static void
on_executor_start(QueryDesc *query, int eflags)
{
	if (current_branch.active && !(eflags & EXEC_FLAG_EXPLAIN_ONLY))
	{
		escape_executor_start(query);
		guard_executor_start(query);
	}
	if (next_executor_start)
		next_executor_start(query, eflags);
	else
		standard_ExecutorStart(query, eflags);
}

static void
release_worker(int code, Datum database)
{
	worker_release(DatumGetObjectId(database));
}

static void
next_utility(PlannedStmt *statement, const char *text, bool read_only,
			 ProcessUtilityContext context, ParamListInfo params,
			 QueryEnvironment *environment, DestReceiver *dest, QueryCompletion *completion)
{
	const char *outer = trigger_drop_is;
	bool		watched = fit_watch(statement);
	List	   *admitted;

	if (IsA(statement->utilityStmt, DropStmt))
	{
		ObjectType	type = ((DropStmt *) statement->utilityStmt)->removeType;

		/* by CASCADE the extension may go, or a table: the trigger goes first */
		trigger_drop_is = type == OBJECT_TABLE ? "drop" : type == OBJECT_TRIGGER ? "detach" : "drop or detach";
	}
	else if (IsA(statement->utilityStmt, DropOwnedStmt))
		trigger_drop_is = "drop or detach";
	admitted = worker_before_drop_owned(statement);
	PG_TRY();
	{
		if (next_process_utility)
			next_process_utility(statement, text, read_only, context, params, environment,
								 dest, completion);
		else
			standard_ProcessUtility(statement, text, read_only, context, params, environment,
									dest, completion);
		if (watched)
			fit_check_altered(statement);
		worker_after_drop_owned(admitted);
	}
	PG_FINALLY();
	{
		trigger_drop_is = outer;
		if (watched)
			fit_watch_end();
	}
	PG_END_TRY();
}

/* A utility command that waits to be run. */
typedef struct UtilityCall
{
	PlannedStmt *statement;
	const char *text;
	ProcessUtilityContext context;
	ParamListInfo params;
	QueryEnvironment *environment;
	DestReceiver *dest;
	QueryCompletion *completion;
} UtilityCall;

static void
run_again(void *arg)
{
	UtilityCall *call = arg;

	next_utility(call->statement, call->text, true, call->context, call->params, call->environment,
				 call->dest, call->completion);
}

static void
on_process_utility(PlannedStmt *statement, const char *text, bool read_only,
				   ProcessUtilityContext context, ParamListInfo params,
				   QueryEnvironment *environment, DestReceiver *dest, QueryCompletion *completion)
{
	Oid			held;

	if (current_branch.active)
	{
		escape_utility(statement, &context);
		guard_utility(statement);
	}
	else if (session_is_lent())
	{
		if (read_serves())
			read_utility(statement, &context);
		escape_session(statement->utilityStmt);
	}
	if (alter_is_of_attached(statement))
	{
		UtilityCall call = {statement, text, context, params, environment, dest, completion};

		alter_run(statement, run_again, &call);
		return;
	}
	worker_make_way(statement);
	held = worker_hold_for(statement);
	if (!OidIsValid(held))
	{
		next_utility(statement, text, read_only, context, params, environment, dest, completion);
		return;
	}
	/* whatever ends this command, the end of the session included */
	PG_ENSURE_ERROR_CLEANUP(release_worker, ObjectIdGetDatum(held));
	{
		next_utility(statement, text, read_only, context, params, environment, dest, completion);
	}
	PG_END_ENSURE_ERROR_CLEANUP(release_worker, ObjectIdGetDatum(held));
	if (IsA(statement->utilityStmt, DropdbStmt))
		worker_forget(held);
	else
		worker_release(held);
}

static void
on_object_access(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id, void *arg)
{
	if (next_object_access)
		next_object_access(access, class_id, object_id, sub_id, arg);
	if (!IsUnderPostmaster || !OidIsValid(MyDatabaseId))
		return;
	if (class_id == LargeObjectRelationId && participant_captures())
		guard_large_object();
	if (class_id == TriggerRelationId && access == OAT_DROP)
		guard_trigger_drop(object_id, trigger_drop_is);
	if (access == OAT_DROP)
	{
		if (class_id == RelationRelationId && sub_id == 0)
			guard_relation_drop(object_id, ((ObjectAccessDrop *) arg)->dropflags);
		worker_guard_drop(class_id, object_id);
		tcc_guard_drop(class_id, object_id);
	}
	else if (access == OAT_TRUNCATE && class_id == RelationRelationId)
		guard_relation_truncate(object_id);
}

void
_PG_init(void)
{
	/* every function says so, with a hint, when it is called without */
	if (!process_shared_preload_libraries_in_progress)
		return;

	guc_define();
	at_register();
	xa_register();
	tcc_register();
	msg_register();
	notify_register();
	callbacks_register();

	next_shmem_request = shmem_request_hook;
	shmem_request_hook = on_shmem_request;
	next_shmem_startup = shmem_startup_hook;
	shmem_startup_hook = on_shmem_startup;
	next_post_parse_analyze = post_parse_analyze_hook;
	post_parse_analyze_hook = on_post_parse_analyze;
	next_executor_start = ExecutorStart_hook;
	ExecutorStart_hook = on_executor_start;
	next_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = on_process_utility;
	next_object_access = object_access_hook;
	object_access_hook = on_object_access;

	launcher_register();
}
