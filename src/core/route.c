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
#include "core/route.h"
#include "core/subxact.h"
#include "miscadmin.h"
#include "net/connection.h"
#include "net/peer.h"
#include "nodes/pg_list.h"
#include "utils/rel.h"

typedef struct LookWork
{
	Oid			server;
	Oid			role;
	const char *node;
	bool		found;
} LookWork;

static void
look(void *arg)
{
	LookWork   *work = arg;

	work->found = strcmp(connection_get(work->server, work->role, 0)->peer_node, work->node) == 0;
}

/* Does it? A server that cannot be reached does not, for now: *why says so. */
static bool
server_leads_to(Oid server, Oid role, const char *node, char **why)
{
	LookWork	work = {server, role, node, false};
	ErrorData  *error = subxact_run(look, &work);

	if (error != NULL)
		*why = error->message;
	return work.found;
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
		size_t		length = strlen(NameStr(form->srvname));
		bool		likely = contact_leads_to(form->oid, role, node) ||
			(strncmp(NameStr(form->srvname), node, length) == 0 && node[length] == '.');

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
server_for_node(const char *node, Oid role)
{
	char	   *why = NULL;
	List	   *servers = likely_servers(role, node);
	ListCell   *cell;

	foreach(cell, servers)
		if (server_leads_to(lfirst_oid(cell), role, node, &why))
			return lfirst_oid(cell);
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("no server leads to node \"%s\"", node),
			 why ? errdetail_internal("%s", why) :
			 errdetail("Role \"%s\" has no user mapping for such a server.", GetUserNameFromId(role, true)),
			 errhint("Create a server of dtx_fdw and a user mapping for it.")));
}
