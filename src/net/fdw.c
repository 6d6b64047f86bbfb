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
#include "net/peer.h"

PG_FUNCTION_INFO_V1(dtx_fdw_validator);

/* dtx.fdw_validator(options text[], catalog oid): ERROR for what libpq does not know. */
Datum
dtx_fdw_validator(PG_FUNCTION_ARGS)
{
	List	   *options = untransformRelOptions(PG_GETARG_DATUM(0));
	Oid			catalog = PG_GETARG_OID(1);
	bool		in_mapping = catalog == UserMappingRelationId;
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *def = lfirst_node(DefElem, cell);
		const char *nearest;

		if ((catalog == ForeignServerRelationId || in_mapping) &&
			peer_option_is_known(def->defname, in_mapping))
		{
			if (strcmp(def->defname, "password_required") == 0 &&
				!defGetBoolean(def) && !superuser())
				ereport(ERROR,
						(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						 errmsg("password_required=false is superuser-only"),
						 errhint("User mappings with the password_required option set to false may only be created or modified by the superuser.")));
			continue;
		}
		nearest = (catalog == ForeignServerRelationId || in_mapping) ?
			peer_option_nearest(def->defname, in_mapping) : NULL;
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("invalid option \"%s\"", def->defname),
				 nearest ? errhint("Perhaps you meant the option \"%s\".", nearest) :
				 peer_option_is_known(def->defname, !in_mapping) ?
				 errhint("The option belongs to the %s.", in_mapping ? "server" : "user mapping") :
				 catalog == ForeignServerRelationId || in_mapping ?
				 errhint("The options are those of libpq's connection strings.") :
				 errhint("There are no valid options in this context.")));
	}
	PG_RETURN_VOID();
}
