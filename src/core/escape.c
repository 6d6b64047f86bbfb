/*
 * escape.c
 *		A statement of the user's cannot leave its branch.
 *
 * It runs on a connection that others use too, inside a transaction that the
 * coordinator ends: it may neither end that nor change the session.
 */
#include "postgres.h"

#include "access/xact.h"
#include "core/escape.h"
#include "core/participant.h"
#include "core/relations.h"
#include "fmgr.h"
#include "nodes/parsenodes.h"
#include "nodes/plannodes.h"
#include "tcop/cmdtag.h"
#include "tcop/pquery.h"
#include "utils/lsyscache.h"
#include "utils/portal.h"

PG_FUNCTION_INFO_V1(dtx_not_in_branch);

/* dtx.not_in_branch(): an ERROR inside a branch */
Datum
dtx_not_in_branch(PG_FUNCTION_ARGS)
{
	if (current_branch.active)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this function is not allowed inside a branch"),
				 errdetail("This transaction is branch \"%s\".", current_branch.gid_text)));
	PG_RETURN_VOID();
}

/* Is that the statement that came with the join, and does it return rows? */
static bool
is_callers_statement(PlannedStmt *statement)
{
	return ActivePortal != NULL && ActivePortal->name[0] == '\0' &&
		ActivePortal->stmts != NIL && linitial(ActivePortal->stmts) == statement;
}

/* The coordinator's own SELECT dtx.branch_control(...) or dtx.branch_enter(...). */
static bool
is_coordinators(PlannedStmt *statement)
{
	TargetEntry *target;
	Oid			function;

	if (current_branch.token == 0 || list_length(statement->planTree->targetlist) != 1)
		return false;
	target = linitial(statement->planTree->targetlist);
	if (!IsA(target->expr, FuncExpr))
		return false;
	function = ((FuncExpr *) target->expr)->funcid;
	return OidIsValid(own_schema()) && get_func_namespace(function) == own_schema() &&
		(strcmp(get_func_name(function), "branch_control") == 0 ||
		 strcmp(get_func_name(function), "branch_enter") == 0);
}

static void
refuse_rows(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("the statement returns rows"),
			 errhint("Use dtx_query for statements that return rows.")));
}

static void
refuse_transaction_control(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_TRANSACTION_TERMINATION),
			 errmsg("transaction control is not allowed inside a branch"),
			 errdetail("This transaction is branch \"%s\".", current_branch.gid_text),
			 errhint("The global transaction's coordinator ends it.")));
}

static void
refuse_session_change(const char *what, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 current_branch.active ? errmsg("%s is not allowed inside a branch", what) :
			 errmsg("%s is not allowed in a function that dtx calls", what),
			 current_branch.active ? errdetail("The connection is used again by other branches.") :
			 errdetail("The session goes on to serve others."),
			 hint ? errhint("%s", hint) : 0));
}

void
escape_session(Node *node)
{
	switch (nodeTag(node))
	{
		case T_PrepareStmt:
		case T_DeallocateStmt:
		case T_ListenStmt:
		case T_UnlistenStmt:
		case T_DiscardStmt:
		case T_LoadStmt:
			refuse_session_change(GetCommandTagName(CreateCommandTag(node)), NULL);
			break;
		case T_DeclareCursorStmt:
			if (((DeclareCursorStmt *) node)->options & CURSOR_OPT_HOLD)
				refuse_session_change("DECLARE CURSOR WITH HOLD", "Declare it without HOLD.");
			break;
		default:
			break;
	}
}

void
escape_executor_start(QueryDesc *query)
{
	PlannedStmt *statement = query->plannedstmt;

	if (!participant_user_statement() || !is_callers_statement(statement))
		return;
	if ((current_branch.flags & JOIN_NO_ROWS) &&
		(statement->commandType == CMD_SELECT || statement->hasReturning))
	{
		/* an empty statement before it has left the flag */
		if (is_coordinators(statement))
			return;
		refuse_rows();
	}
	/* that was said of this statement only */
	current_branch.flags &= ~JOIN_NO_ROWS;
}

/* The coordinator's own transaction control, or one that can do no harm. */
static bool
may_control(TransactionStmt *statement)
{
	if (!(current_branch.flags & JOIN_ONE_STATEMENT) && current_branch.token == 0)
		return true;			/* joined by hand, in a block of the caller's own */
	/* preparing it early, under its own gid, gains nobody anything: the
	 * coordinator finds it gone, and has it rolled back */
	if (statement->kind == TRANS_STMT_PREPARE && current_branch.token != 0)
		return strcmp(statement->gid, current_branch.gid_text) == 0;
	if (current_branch.controlled)
		return true;
	/* nothing else is possible in a transaction that has failed */
	return current_branch.token != 0 && IsAbortedTransactionBlockState();
}

void
escape_utility(PlannedStmt *statement, ProcessUtilityContext *context)
{
	Node	   *node = statement->utilityStmt;

	if (!current_branch.active || (current_branch.flags & JOIN_OWN_SESSION))
		return;
	if (participant_user_statement() && (current_branch.flags & JOIN_NO_ROWS) &&
		is_callers_statement(statement) && UtilityReturnsTuples(node))
		refuse_rows();

	switch (nodeTag(node))
	{
		case T_TransactionStmt:
			if (!may_control((TransactionStmt *) node))
				refuse_transaction_control();
			break;
		case T_DoStmt:
		case T_CallStmt:
			/* not at top level: the procedure must not commit or roll back */
			if (*context == PROCESS_UTILITY_TOPLEVEL || *context == PROCESS_UTILITY_QUERY_NONATOMIC)
				*context = PROCESS_UTILITY_QUERY;
			break;
		case T_VariableSetStmt:
			if (!((VariableSetStmt *) node)->is_local)
				refuse_session_change("SET without LOCAL", "Use SET LOCAL.");
			break;
		case T_CopyStmt:
			if (((CopyStmt *) node)->filename == NULL && is_callers_statement(statement))
				ereport(ERROR,
						(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						 errmsg("COPY to or from the client is not possible in a branch"),
						 errhint("Copy from a file at the server, or insert the rows.")));
			break;
		default:
			escape_session(node);
			break;
	}
	if (participant_user_statement() && is_callers_statement(statement))
		current_branch.flags &= ~JOIN_NO_ROWS;
}
