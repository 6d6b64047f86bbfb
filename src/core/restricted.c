/*
 * restricted.c
 *		Running code that belongs to somebody, where somebody else asked for it.
 *
 * Whose code dtx calls, and as whom:
 *
 *	a table's indexes, constraints, defaults, generated columns, while a branch is
 *	undone: as the table's owner, restricted; casts and comparisons in checks of
 *	its foreign keys too. Whoever settles: the opener by dtx_rollback, a superuser
 *	by dtx_resolve, a coordinator's session. Never in the worker's process.
 *
 *	the same while a statement writes: as who writes, by PostgreSQL. The capture
 *	trigger adds comparing and hashing keys by their operator class, and texts of
 *	keys in errors by output functions. Both are C functions of superusers'.
 *
 *	decoding images for dtx_undo and dtx_locks: output functions, as who looks. No
 *	cast is looked for.
 *
 *	a try: as who tries. Its confirm or cancel: as that role, with the search path,
 *	and the styles of dates and times, that the try ran with: at commit in the
 *	session that tried, else in a session of the role's.
 *
 *	handlers, check functions: as the role that subscribed, prepared or expects, in
 *	a process of that role's; by peers, as the role that they connect as. dtx_accept
 *	and dtx_reconcile call the handler at once, as the caller.
 *
 *	dtx's own tables: nobody's code. own_sql.c runs SQL on them as their owner,
 *	dtx_attach and dtx_detach change the trigger without a command that event
 *	triggers could see.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_authid.h"
#include "core/compat.h"
#include "core/restricted.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/syscache.h"

void
restricted_begin(Restricted *state, Oid role)
{
	GetUserIdAndSecContext(&state->user, &state->security);
	SetUserIdAndSecContext(role, state->security | SECURITY_RESTRICTED_OPERATION);
	state->nest = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

void
restricted_end(Restricted *state)
{
	AtEOXact_GUC(false, state->nest);
	SetUserIdAndSecContext(state->user, state->security);
}

bool
role_may_log_in(Oid role)
{
	HeapTuple	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(role));
	bool		may_log_in = HeapTupleIsValid(tuple) && ((Form_pg_authid) GETSTRUCT(tuple))->rolcanlogin;

	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	return may_log_in && dtx_database_aclcheck(MyDatabaseId, role) == ACLCHECK_OK;
}
