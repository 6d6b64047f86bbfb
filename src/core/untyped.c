/*
 * untyped.c
 *		Parameters that a client gives to dtx_exec or dtx_query without a type.
 *
 * Most drivers send a value without a type and leave it to the server to infer
 * one. An argument of VARIADIC "any" may be of any type, so the parser infers none,
 * and the statement would be refused once it is analysed (42P18): between the
 * two it says here that such a parameter is text. As text it stays a parameter without
 * a type: the peer infers it from the statement there (core/api.c).
 *
 * No overload does that as well. Beside VARIADIC "any" one with VARIADIC text[] takes
 * a call only if all its values are untyped or text; and where somebody has made a cast
 * from integer to text implicit, calls with integers become ambiguous.
 *
 * The parser itself is told by the hook that it offers for this, p_coerce_param_hook, as
 * if the argument had been declared text. It is set while types are still to be
 * inferred, and by nobody else: PL/pgSQL, SQL functions and plans that are
 * analysed again know the types of their parameters.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "catalog/dependency.h"
#include "core/untyped.h"
#include "nodes/nodeFuncs.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/syscache.h"

static bool
is_untyped(Node *node)
{
	return IsA(node, Param) && ((Param *) node)->paramkind == PARAM_EXTERN &&
		((Param *) node)->paramtype == UNKNOWNOID;
}

/* Is that dtx_exec or dtx_query, with values? By what it is, not by its name. */
static bool
takes_values(Oid function)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Form_pg_proc form;
	bool		candidate;
	Oid			extension;

	if (!HeapTupleIsValid(tuple))
		return false;
	form = (Form_pg_proc) GETSTRUCT(tuple);
	candidate = form->prolang == ClanguageId && form->provariadic == ANYOID;
	ReleaseSysCache(tuple);
	if (!candidate)
		return false;
	extension = getExtensionOfObject(ProcedureRelationId, function);
	return OidIsValid(extension) && extension == get_extension_oid("dtx", true);
}

static bool
resolve(Node *node, ParseState *pstate)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		Query	   *query = (Query *) node;

		if (query->commandType == CMD_UTILITY)
		{
			/* what is declared, explained or made a table of; and the arguments of a CALL */
			if (IsA(query->utilityStmt, CallStmt))
				return resolve((Node *) ((CallStmt *) query->utilityStmt)->funcexpr, pstate);
			return resolve((Node *) UtilityContainsQuery(query->utilityStmt), pstate);
		}
		return query_tree_walker(query, resolve, pstate, 0);
	}
	if (IsA(node, FuncExpr))
	{
		FuncExpr   *call = (FuncExpr *) node;
		ListCell   *cell;
		bool		known = false;

		foreach(cell, call->args)
		{
			Node	   *typed;

			if (!is_untyped(lfirst(cell)))
				continue;
			if (!known && !takes_values(call->funcid))
				break;
			known = true;
			typed = pstate->p_coerce_param_hook(pstate, lfirst(cell), TEXTOID, -1, -1);
			if (typed != NULL)
				lfirst(cell) = typed;
		}
	}
	return expression_tree_walker(node, resolve, pstate);
}

/* Does the text have dtx_ in it? Who calls these functions without saying so gets 42P18. */
static bool
mentions_dtx(const char *text)
{
	for (const char *p = text; p != NULL && *p != '\0'; p++)
		if ((*p == 'd' || *p == 'D') && pg_strncasecmp(p, "dtx_", 4) == 0)
			return true;
	return false;
}

void
untyped_resolve(ParseState *pstate, Query *query)
{
	if (pstate->p_coerce_param_hook != NULL && mentions_dtx(pstate->p_sourcetext))
		(void) resolve((Node *) query, pstate);
}
