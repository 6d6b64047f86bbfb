/*
 * fdw.c
 *		The validator of the foreign data wrapper dtx_fdw.
 */
#include "postgres.h"

#include "access/reloptions.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "net/endpoint.h"
#include "net/peer.h"

PG_FUNCTION_INFO_V1(dtx_fdw_validator);

/* dtx.fdw_validator(options text[], catalog oid): ERROR for what neither libpq nor an
 * HTTP endpoint knows. */
Datum
dtx_fdw_validator(PG_FUNCTION_ARGS)
{
	List	   *options = untransformRelOptions(PG_GETARG_DATUM(0));
	Oid			catalog = PG_GETARG_OID(1);
	bool		in_mapping = catalog == UserMappingRelationId;
	bool		has_options = catalog == ForeignServerRelationId || in_mapping;
	bool		is_http = false;
	ListCell   *cell;

	foreach(cell, options)
		is_http |= catalog == ForeignServerRelationId && strcmp(lfirst_node(DefElem, cell)->defname, "url") == 0;

	foreach(cell, options)
	{
		DefElem    *def = lfirst_node(DefElem, cell);
		const char *nearest;

		/* a mapping may be of either kind of server: it does not say of which */
		if (has_options && (is_http || in_mapping || strcmp(def->defname, "receiver") == 0) &&
			endpoint_option_is_known(def->defname, in_mapping))
		{
			endpoint_option_check(def->defname, defGetString(def));
			continue;
		}
		if (is_http && peer_option_is_known(def->defname, false))
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
					 errmsg("option \"%s\" does not go with url", def->defname),
					 errdetail("A server is an HTTP endpoint or a database.")));
		if (has_options && !is_http && endpoint_option_is_known(def->defname, in_mapping) &&
			!peer_option_is_known(def->defname, in_mapping))
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
					 errmsg("option \"%s\" needs the option url", def->defname)));
		if (has_options && !is_http && peer_option_is_known(def->defname, in_mapping))
		{
			if (strcmp(def->defname, "password_required") == 0 &&
				!defGetBoolean(def) && !superuser())
				ereport(ERROR,
						(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						 errmsg("password_required=false is superuser-only"),
						 errhint("User mappings with the password_required option set to false may only be created or modified by the superuser.")));
			peer_option_check(def->defname, defGetString(def));
			continue;
		}
		nearest = has_options && !is_http ? peer_option_nearest(def->defname, in_mapping) : NULL;
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("invalid option \"%s\"", def->defname),
				 nearest ? errhint("Perhaps you meant the option \"%s\".", nearest) :
				 peer_option_is_known(def->defname, !in_mapping) || endpoint_option_is_known(def->defname, !in_mapping) ?
				 errhint("The option belongs to the %s.", in_mapping ? "server" : "user mapping") :
				 is_http ?
				 errhint("The options of an HTTP endpoint are url, allow_private, max_requests, receiver, sslrootcert and timeout.") :
				 has_options ?
				 errhint("The options are those of libpq's connection strings.") :
				 errhint("There are no valid options in this context.")));
	}
	PG_RETURN_VOID();
}
