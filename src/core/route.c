/*
 * route.c
 *		Which server leads to a node.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_foreign_server.h"
#include "core/compat.h"
#include "core/contact.h"
#include "core/errors.h"
#include "core/route.h"
#include "core/subxact.h"
#include "miscadmin.h"
#include "net/connection.h"
#include "net/peer.h"
#include "net/remote.h"
#include "nodes/pg_list.h"
#include "utils/rel.h"

typedef struct LookWork
{
	Oid			server;
	Oid			role;
	const char *node;
	const char *owner;			/* a role there; NULL: any will do */
	bool		found;
	bool		may_act;		/* as owner */
	char		user[NAMEDATALEN];	/* who one is there */
} LookWork;

/* Ask whether who one is at the other end of a connection may act as the owner. */
static void
ask_who(PeerConnection *pc, LookWork *work)
{
	RemoteCall	call = {.pc = pc, .nstatements = 1};
	const char *values[1] = {work->owner};

	call.statements[0].sql = "SELECT pg_catalog.pg_has_role(r.oid, 'USAGE') FROM pg_catalog.pg_roles r"
		" WHERE r.rolname OPERATOR(pg_catalog.=) $1::pg_catalog.name";
	call.statements[0].nparams = 1;
	call.statements[0].values = values;
	call.statements[0].once = true;
	PG_TRY();
	{
		remote_run(&call, 0);
		if (call.error != NULL || call.broken)
			remote_throw(&call);
		work->may_act = remote_has_rows(&call, 0, 1, 1) && PQgetvalue(call.results[0], 0, 0)[0] == 't';
	}
	PG_CATCH();
	{
		remote_free(&call);
		PG_RE_THROW();
	}
	PG_END_TRY();
	remote_free(&call);
}

static void
look(void *arg)
{
	LookWork   *work = arg;
	PeerConnection *pc = connection_get(work->server, work->role, 0);

	work->found = strcmp(pc->peer_node, work->node) == 0;
	if (!work->found)
		return;
	strlcpy(work->user, PQuser(pc->conn), sizeof(work->user));
	work->may_act = work->owner == NULL || strcmp(work->user, work->owner) == 0;
	if (!work->may_act)
		ask_who(pc, work);
}

/* Servers with a user mapping for the role, likely ones first: those that are
 * known to lead there, those that have the node's name. */
static List *
likely_servers(Oid role, const char *node)
{
	List	   *servers = NIL;
	Relation	rel = table_open(ForeignServerRelationId, AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_foreign_server form = (Form_pg_foreign_server) GETSTRUCT(tuple);
		char	   *wrapper = GetForeignDataWrapper(form->srvfdw)->fdwname;
		bool		likely = contact_leads_to(form->oid, role, node) || node_has_name(node, NameStr(form->srvname));

		if (!peer_mapping_exists(form->oid, role) ||
			(!likely && strcmp(wrapper, "dtx_fdw") != 0) ||
			dtx_server_aclcheck(form->oid, role) != ACLCHECK_OK)
			continue;
		servers = likely ? lcons_oid(form->oid, servers) : lappend_oid(servers, form->oid);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return servers;
}

Oid
server_for_branch(const char *node, Oid role, const char *owner)
{
	char	   *why = NULL;
	char	   *denied = NULL;
	bool		unavailable = false;
	ListCell   *cell;

	/* a server that cannot be reached leads nowhere, for now */
	foreach(cell, likely_servers(role, node))
	{
		LookWork	work = {lfirst_oid(cell), role, node, owner};
		ErrorData  *error = subxact_run(look, &work);

		if (error != NULL)
		{
			/* what is down may be what leads there; likely ones come first */
			if (unavailable)
				continue;
			unavailable = error->sqlerrcode == ERRCODE_DTX_PEER_UNAVAILABLE;
			why = error->detail != NULL ? psprintf("%s: %s", error->message, error->detail) : error->message;
		}
		else if (work.may_act)
			return work.server;
		else if (work.found)
			denied = psprintf("Server \"%s\" leads there as role \"%s\".",
							  GetForeignServer(work.server)->servername, work.user);
	}
	if (denied != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("no server leads to node \"%s\" as a role that may settle branches of role \"%s\"", node, owner),
				 errdetail_internal("%s", denied),
				 errhint("There must be a user mapping for role \"%s\" whose user is that role, or a member of it.",
						 GetUserNameFromId(role, true))));
	if (unavailable)
		ereport(ERROR,
				(errcode(ERRCODE_DTX_PEER_UNAVAILABLE),
				 errmsg("no server that can be reached leads to node \"%s\"", node),
				 errdetail_internal("%s", why)));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("no server leads to node \"%s\"", node),
			 why ? errdetail_internal("%s", why) :
			 errdetail("Role \"%s\" has no user mapping for such a server.", GetUserNameFromId(role, true)),
			 errhint("Create a server of dtx_fdw and a user mapping for it.")));
}

Oid
server_for_node(const char *node, Oid role)
{
	return server_for_branch(node, role, NULL);
}
