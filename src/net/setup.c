/*
 * setup.c
 *		dtx_peer: a peer's server, its user mapping, and who may come from there.
 *
 * The statements are those that the caller could type in, with the caller's rights, and
 * go the way of all statements: event triggers and other extensions see them, but for
 * their text, where a password would stand.
 */
#include "postgres.h"

#include "access/reloptions.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "core/api.h"
#include "core/compat.h"
#include "libpq-fe.h"
#include "miscadmin.h"
#include "net/peer.h"
#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"
#include "parser/parse_func.h"
#include "tcop/dest.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

PG_FUNCTION_INFO_V1(dtx_peer);

static void
run_utility(Node *statement, const char *as)
{
	PlannedStmt *wrapper = makeNode(PlannedStmt);

	wrapper->commandType = CMD_UTILITY;
	wrapper->utilityStmt = statement;
	wrapper->stmt_location = -1;
	ProcessUtility(wrapper, as, false, PROCESS_UTILITY_QUERY, NULL, NULL, None_Receiver, NULL);
	CommandCounterIncrement();
}

static RoleSpec *
role_spec(Oid role)
{
	RoleSpec   *spec = makeNode(RoleSpec);

	spec->roletype = ROLESPEC_CSTRING;
	spec->rolename = GetUserNameFromId(role, false);
	spec->location = -1;
	return spec;
}

/* --- what a connection string says --- */

typedef struct PeerOptions
{
	List	   *server;			/* DefElems */
	List	   *mapping;
} PeerOptions;

/* Secrets and who one is there go into the mapping, all else into the server. */
static void
parse_conninfo(const char *conninfo, Oid role, PeerOptions *options)
{
	char	   *libpq_error = NULL;
	PQconninfoOption *parsed = PQconninfoParse(conninfo, &libpq_error);
	bool		has_user = false;
	bool		has_dbname = false;

	memset(options, 0, sizeof(*options));
	if (parsed == NULL)
	{
		char	   *error = libpq_error == NULL ? pstrdup("out of memory") : pchomp(libpq_error);

		if (libpq_error != NULL)
			PQfreemem(libpq_error);
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid connection string"),
				 errdetail_internal("%s", error)));
	}
	PG_TRY();
	{
		for (PQconninfoOption *o = parsed; o->keyword != NULL; o++)
		{
			bool		in_mapping = peer_option_is_known(o->keyword, true) && !peer_option_is_known(o->keyword, false);
			DefElem    *def;

			if (o->val == NULL || o->val[0] == '\0')
				continue;
			has_user |= strcmp(o->keyword, "user") == 0;
			has_dbname |= strcmp(o->keyword, "dbname") == 0;
			/* what does not fit is the validator's to refuse */
			def = makeDefElem(pstrdup(o->keyword), (Node *) makeString(pstrdup(o->val)), -1);
			if (in_mapping)
				options->mapping = lappend(options->mapping, def);
			else
				options->server = lappend(options->server, def);
		}
	}
	PG_FINALLY();
	{
		PQconninfoFree(parsed);
	}
	PG_END_TRY();
	/* libpq would take the account that the database server runs as */
	if (!has_user)
		options->mapping = lcons(makeDefElem("user", (Node *) makeString(GetUserNameFromId(role, false)), -1),
								 options->mapping);
	if (!has_dbname)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("connection string of a peer must name a database"),
				 errhint("Such as 'host=db2.example dbname=bank2 user=teller password=...'.")));
}

/* --- what is there already --- */

static const char *
value_of(List *options, const char *name)
{
	ListCell   *cell;

	foreach(cell, options)
		if (strcmp(lfirst_node(DefElem, cell)->defname, name) == 0)
			return defGetString(lfirst_node(DefElem, cell));
	return NULL;
}

static char *
shown(const char *value, bool secret)
{
	return value == NULL ? pstrdup("none") : secret ? pstrdup("one") : psprintf("\"%s\"", value);
}

/* Append, for each option of a connection in one of the lists, how they differ. */
static void
compare_options(StringInfo differences, List *there, List *asked, bool in_mapping)
{
	List	   *all = list_concat_copy(asked, there);
	List	   *seen = NIL;
	ListCell   *cell;

	foreach(cell, all)
	{
		const char *name = lfirst_node(DefElem, cell)->defname;
		const char *is = value_of(there, name);
		const char *wanted = value_of(asked, name);
		bool		secret = strstr(name, "password") != NULL;

		if (!peer_option_is_known(name, in_mapping) || strcmp(name, "password_required") == 0 || value_of(seen, name) != NULL ||
			(is != NULL && wanted != NULL && strcmp(is, wanted) == 0))
			continue;
		seen = lappend(seen, lfirst(cell));
		appendStringInfo(differences, "%s%s: there is %s, asked for %s", differences->len > 0 ? "; " : "", name,
						 secret && is != NULL && wanted != NULL ? "another one" : shown(is, secret), shown(wanted, secret));
	}
}

static void
refuse_difference(const char *what, const char *name, StringInfo differences)
{
	if (differences->len > 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("%s \"%s\" exists, with other options", what, name),
				 errdetail_internal("%s", differences->data),
				 errhint("ALTER or DROP it, and call dtx_peer again.")));
}

/* --- the three parts; each: true when something was made --- */

static bool
ensure_server(const char *name, List *options)
{
	Oid			server = get_foreign_server_oid(name, true);
	CreateForeignServerStmt *create;
	StringInfoData differences;

	if (OidIsValid(server))
	{
		peer_require_database(server);
		initStringInfo(&differences);
		compare_options(&differences, GetForeignServer(server)->options, options, false);
		refuse_difference("server", name, &differences);
		return false;
	}
	create = makeNode(CreateForeignServerStmt);
	create->servername = pstrdup(name);
	create->fdwname = "dtx_fdw";
	create->options = options;
	run_utility((Node *) create, "CREATE SERVER by dtx_peer");
	return true;
}

/* A list of the mapping's options: for who may see them. */
static List *
mapping_options(HeapTuple tuple)
{
	bool		isnull;
	Datum		options = SysCacheGetAttr(USERMAPPINGUSERSERVER, tuple, Anum_pg_user_mapping_umoptions, &isnull);

	return isnull ? NIL : untransformRelOptions(options);
}

static bool
ensure_mapping(const char *name, Oid role, List *options)
{
	Oid			server = get_foreign_server_oid(name, false);
	HeapTuple	tuple = SearchSysCache2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(role), ObjectIdGetDatum(server));
	CreateUserMappingStmt *create;

	if (HeapTupleIsValid(tuple))
	{
		StringInfoData differences;

		/* as pg_user_mappings shows them: one's own, where one may use the server */
		if (!has_privs_of_role(GetUserId(), GetForeignServer(server)->owner) &&
			(role != GetUserId() || dtx_server_aclcheck(server, role) != ACLCHECK_OK))
			aclcheck_error(role == GetUserId() ? ACLCHECK_NO_PRIV : ACLCHECK_NOT_OWNER, OBJECT_FOREIGN_SERVER, name);
		initStringInfo(&differences);
		compare_options(&differences, mapping_options(tuple), options, true);
		ReleaseSysCache(tuple);
		refuse_difference("user mapping for server", name, &differences);
		return false;
	}
	create = makeNode(CreateUserMappingStmt);
	create->user = role_spec(role);
	create->servername = pstrdup(name);
	create->options = options;
	run_utility((Node *) create, "CREATE USER MAPPING by dtx_peer");
	return true;
}

static bool
ensure_usage(const char *name, Oid role)
{
	Oid			server = get_foreign_server_oid(name, false);
	GrantStmt  *grant;
	AccessPriv *usage;

	if (dtx_server_aclcheck(server, role) == ACLCHECK_OK)
		return false;
	usage = makeNode(AccessPriv);
	usage->priv_name = "usage";
	grant = makeNode(GrantStmt);
	grant->is_grant = true;
	grant->targtype = ACL_TARGET_OBJECT;
	grant->objtype = OBJECT_FOREIGN_SERVER;
	grant->objects = list_make1(makeString(pstrdup(name)));
	grant->privileges = list_make1(usage);
	grant->grantees = list_make1(role_spec(role));
	grant->behavior = DROP_RESTRICT;
	run_utility((Node *) grant, "GRANT USAGE ON FOREIGN SERVER by dtx_peer");
	return true;
}

/* As the caller would: whoever may not is refused by the grants that it makes. */
static void
admit(Oid schema, Oid role)
{
	Oid			type = REGROLEOID;
	List	   *name = list_make2(makeString(get_namespace_name(schema)), makeString("dtx_admit"));
	Oid			function = LookupFuncName(name, 1, &type, false);

	if (dtx_function_aclcheck(function, GetUserId()) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FUNCTION, get_func_name(function));
	(void) OidFunctionCall1(function, ObjectIdGetDatum(role));
}

/* dtx_peer(server name, conninfo text, role regrole, admit regrole) */
Datum
dtx_peer(PG_FUNCTION_ARGS)
{
	Oid			role = PG_ARGISNULL(2) ? GetUserId() : PG_GETARG_OID(2);
	PeerOptions options;
	const char *name;
	bool		made;

	arguments_required(fcinfo, 2);
	name = NameStr(*PG_GETARG_NAME(0));
	/* an OID that is nobody's is not a role */
	(void) GetUserNameFromId(role, false);
	PreventCommandIfReadOnly("dtx_peer()");
	parse_conninfo(text_to_cstring(PG_GETARG_TEXT_PP(1)), role, &options);
	made = ensure_server(name, options.server);
	made |= ensure_mapping(name, role, options.mapping);
	made |= ensure_usage(name, role);
	if (!PG_ARGISNULL(3))
		admit(get_func_namespace(fcinfo->flinfo->fn_oid), PG_GETARG_OID(3));
	PG_RETURN_TEXT_P(cstring_to_text(made ? "created" : "unchanged"));
}
