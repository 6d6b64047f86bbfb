/*
 * peer.c
 *		Foreign servers as peers: options, rights, the password rule.
 */
#include "postgres.h"

#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "core/compat.h"
#include "libpq-fe.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "net/dial.h"
#include "net/endpoint.h"
#include "net/peer.h"
#include "utils/builtins.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

static PQconninfoOption *libpq_options = NULL;	/* for the life of the process */

static PQconninfoOption *
known_options(void)
{
	if (libpq_options == NULL)
		libpq_options = PQconndefaults();
	if (libpq_options == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_OUT_OF_MEMORY),
				 errmsg("out of memory"),
				 errdetail("Could not get libpq's default connection options.")));
	return libpq_options;
}

/*
 * libpq marks what is a secret with '*' and what only debugs with 'D'. A user
 * and secrets belong to a mapping; a client certificate may stand there too.
 * What dtx sets itself (encoding, fallback name) is nobody's.
 */
static bool
option_fits(const PQconninfoOption *option, bool in_mapping)
{
	bool		personal = strcmp(option->keyword, "user") == 0 ||
		strchr(option->dispchar, '*') != NULL;
	bool		either = strcmp(option->keyword, "sslcert") == 0 ||
		strcmp(option->keyword, "sslkey") == 0;

	if (strchr(option->dispchar, 'D') != NULL ||
		strcmp(option->keyword, "client_encoding") == 0 ||
		strcmp(option->keyword, "fallback_application_name") == 0 ||
		strcmp(option->keyword, "replication") == 0)
		return false;
	return either || personal == in_mapping;
}

bool
peer_option_is_known(const char *keyword, bool in_mapping)
{
	for (PQconninfoOption *o = known_options(); o->keyword != NULL; o++)
		if (strcmp(o->keyword, keyword) == 0 && option_fits(o, in_mapping))
			return true;
	return in_mapping && strcmp(keyword, "password_required") == 0;
}

bool
peer_option_names_file(const char *keyword)
{
	static const char *const files[] = {"passfile", "servicefile", "sslcert", "sslcrl", "sslcrldir", "sslkey",
	"sslkeylogfile", "sslrootcert"};

	for (int i = 0; i < lengthof(files); i++)
		if (strcmp(keyword, files[i]) == 0)
			return true;
	return false;
}

/* What makes libpq ask others, whom nobody here waits for without being blocked, or speak as
 * the server's account: services (which may be LDAP's), Kerberos, OAuth. */
static bool
option_asks_others(const char *keyword, const char *value)
{
	if (strcmp(keyword, "gssencmode") == 0)
		return strcmp(value, "disable") != 0;
	if (strcmp(keyword, "require_auth") == 0)
		return strchr(value, '!') != NULL || strstr(value, "gss") != NULL || strstr(value, "sspi") != NULL;
	return strcmp(keyword, "service") == 0 || strcmp(keyword, "krbsrvname") == 0 || strncmp(keyword, "gss", 3) == 0 ||
		strncmp(keyword, "oauth", 5) == 0;
}

void
peer_option_check(const char *keyword, const char *value)
{
	if (!superuser() && (peer_option_names_file(keyword) || option_asks_others(keyword, value)))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("option \"%s\" is superuser-only", keyword),
				 peer_option_names_file(keyword) ?
				 errdetail("The file would be read by the account of the database server.") :
				 errdetail("It would be used by the account of the database server.")));
	if (peer_option_names_file(keyword) && strcmp(keyword, "sslcrldir") != 0 && file_is_special(value))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("invalid value of option \"%s\"", keyword),
				 errdetail("It is not a regular file.")));
}

/* What other wrappers let an owner set is taken from superusers only where it makes libpq
 * ask others, or write to the server's log what the owner says. */
static void
check_foreign_options(ForeignServer *server)
{
	ListCell   *cell;

	if (superuser_arg(server->owner))
		return;
	foreach(cell, server->options)
	{
		DefElem    *def = lfirst_node(DefElem, cell);

		if (option_asks_others(def->defname, defGetString(def)) || strcmp(def->defname, "passfile") == 0 ||
			strcmp(def->defname, "servicefile") == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("option \"%s\" of server \"%s\" is superuser-only", def->defname, server->servername),
					 errdetail("The server's owner, \"%s\", is none.", GetUserNameFromId(server->owner, true))));
	}
}

const char *
peer_option_nearest(const char *keyword, bool in_mapping)
{
	const char *nearest = NULL;
	int			least = 4;		/* farther than this is no hint */
	int			length = strlen(keyword);

	if (length > 100)
		return NULL;
	if (in_mapping &&
		varstr_levenshtein_less_equal(keyword, length, "password_required", 17, 1, 1, 1, least, true) < least)
		return "password_required";
	for (PQconninfoOption *o = known_options(); o->keyword != NULL; o++)
	{
		int			distance;

		if (!option_fits(o, in_mapping))
			continue;
		distance = varstr_levenshtein_less_equal(keyword, length, o->keyword,
												 strlen(o->keyword), 1, 1, 1, least, true);
		if (distance < least && distance <= length / 2)
		{
			least = distance;
			nearest = o->keyword;
		}
	}
	return nearest;
}

Oid
peer_server_by_name(const char *name, Oid role)
{
	Oid			server = get_foreign_server_oid(name, true);
	AclResult	acl;

	if (!OidIsValid(server))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("server \"%s\" does not exist", name),
				 errhint("Create it: CREATE SERVER %s FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host '...', dbname '...');",
						 quote_identifier(name))));
	acl = dtx_server_aclcheck(server, role);
	if (acl != ACLCHECK_OK)
		aclcheck_error(acl, OBJECT_FOREIGN_SERVER, name);
	return server;
}

char *
peer_refused(Oid server, Oid role)
{
	return dtx_server_aclcheck(server, role) == ACLCHECK_OK ? NULL :
		psprintf("%s: permission denied for foreign server %s", unpack_sql_state(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 GetForeignServer(server)->servername);
}

static void
check_wrapper(ForeignServer *server)
{
	ForeignDataWrapper *wrapper = GetForeignDataWrapper(server->fdwid);

	if (strcmp(wrapper->fdwname, "dtx_fdw") != 0 &&
		strcmp(wrapper->fdwname, "postgres_fdw") != 0 &&
		strcmp(wrapper->fdwname, "dblink_fdw") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("server \"%s\" is not a PostgreSQL server", server->servername),
				 errdetail("Its foreign data wrapper is \"%s\".", wrapper->fdwname),
				 errhint("Peers are servers of dtx_fdw, postgres_fdw or dblink_fdw.")));
	if (endpoint_is_http(server->serverid))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("server \"%s\" is not a PostgreSQL server", server->servername),
				 errdetail("It is an HTTP endpoint."),
				 errhint("dtx_notify sends notifications there.")));
}

void
peer_require_database(Oid server)
{
	check_wrapper(GetForeignServer(server));
}

/* Append those of the options that libpq knows; return how many there are. */
static int
append_options(List *options, const char **keywords, const char **values)
{
	ListCell   *cell;
	int			count = 0;

	foreach(cell, options)
	{
		DefElem    *def = lfirst_node(DefElem, cell);

		if (strcmp(def->defname, "password_required") == 0 ||
			!(peer_option_is_known(def->defname, true) ||
			  peer_option_is_known(def->defname, false)))
			continue;
		keywords[count] = def->defname;
		values[count++] = defGetString(def);
	}
	return count;
}

/*
 * Kerberos is asked for tickets by calls that wait for it, and that libpq makes whenever a
 * peer says so: it may not, unless an option of the server speaks of Kerberos.
 */
static int
append_no_kerberos(ForeignServer *server, const char **keywords, const char **values)
{
	ListCell   *cell;
	int			count = 0;

	foreach(cell, server->options)
	{
		DefElem    *def = lfirst_node(DefElem, cell);

		if (option_asks_others(def->defname, defGetString(def)) && strncmp(def->defname, "oauth", 5) != 0)
			return 0;
	}
	for (PQconninfoOption *o = known_options(); o->keyword != NULL; o++)
	{
		if (strcmp(o->keyword, "gssencmode") != 0 &&
			(strcmp(o->keyword, "require_auth") != 0 || (o->val != NULL && o->val[0] != '\0')))
			continue;
		keywords[count] = o->keyword;
		values[count++] = strcmp(o->keyword, "gssencmode") == 0 ? "disable" : "!gss,!sspi";
	}
	return count;
}

/* May this mapping connect without a password? Only superusers say so. */
static bool
password_is_required(UserMapping *mapping)
{
	ListCell   *cell;

	if (superuser_arg(mapping->userid))
		return false;
	foreach(cell, mapping->options)
	{
		DefElem    *def = lfirst_node(DefElem, cell);

		if (strcmp(def->defname, "password_required") == 0)
			return defGetBoolean(def);
	}
	return true;
}

PeerParams *
peer_params(Oid serverid, Oid role)
{
	ForeignServer *server = GetForeignServer(serverid);
	PeerParams *params = palloc0(sizeof(PeerParams));
	UserMapping *mapping;
	int			room;
	int			n = 0;
	bool		has_password = false;

	check_wrapper(server);
	mapping = GetUserMapping(role, serverid);
	if (strcmp(GetForeignDataWrapper(server->fdwid)->fdwname, "dtx_fdw") != 0)
		check_foreign_options(server);
	room = list_length(server->options) + list_length(mapping->options) + 6;
	/* a PUBLIC mapping is used by, and judged as, the role that uses it */
	mapping->userid = role;

	params->server_name = server->servername;
	params->mapping = mapping->umid;
	params->needs_password = password_is_required(mapping);
	params->keywords = palloc(room * sizeof(char *));
	params->values = palloc(room * sizeof(char *));
	n += append_no_kerberos(server, params->keywords, params->values);
	n += append_options(server->options, params->keywords + n, params->values + n);
	n += append_options(mapping->options, params->keywords + n, params->values + n);
	for (int i = 0; i < n; i++)
		has_password |= strcmp(params->keywords[i], "password") == 0 &&
			params->values[i][0] != '\0';
	params->keywords[n] = "fallback_application_name";
	params->values[n++] = "dtx";
	params->keywords[n] = "client_encoding";
	params->values[n++] = GetDatabaseEncodingName();
	params->keywords[n] = params->values[n] = NULL;

	if (params->needs_password && !has_password)
		ereport(ERROR,
				(errcode(ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED),
				 errmsg("password is required"),
				 errdetail("Non-superusers must provide a password in the user mapping for server \"%s\".",
						   server->servername),
				 errhint("Add the option password to the user mapping; a superuser can set password_required 'false'.")));
	return params;
}

bool
peer_mapping_exists(Oid server, Oid role)
{
	return SearchSysCacheExists2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(role), ObjectIdGetDatum(server)) ||
		SearchSysCacheExists2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(InvalidOid), ObjectIdGetDatum(server));
}

void
peer_require_mapping(Oid server, const char *name, Oid role)
{
	const char *whom = role == GetUserId() ? "CURRENT_USER" : quote_identifier(GetUserNameFromId(role, false));

	if (!peer_mapping_exists(server, role))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("user mapping not found for \"%s\"", GetUserNameFromId(role, false)),
				 errhint("CREATE USER MAPPING FOR %s SERVER %s ...", whom, quote_identifier(name))));
}
