/*
 * readable.c
 *		What an error may say of rows, to a role.
 *
 * PostgreSQL asks this itself where it makes an error, for the user at that time. What
 * dtx does as a table's owner, on behalf of a role that changed it, is asked here.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "core/readable.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"

static bool
all_rows_are_visible(Oid relid, Oid role)
{
	return check_enable_rls(relid, role, true) != RLS_ENABLED;
}

bool
relation_is_readable(Oid relid, Oid role)
{
	return pg_class_aclcheck(relid, role, ACL_SELECT) == ACLCHECK_OK && all_rows_are_visible(relid, role);
}

bool
column_is_readable(Oid relid, AttrNumber column, Oid role)
{
	return (pg_class_aclcheck(relid, role, ACL_SELECT) == ACLCHECK_OK ||
			pg_attribute_aclcheck(relid, column, role, ACL_SELECT) == ACLCHECK_OK) && all_rows_are_visible(relid, role);
}

char *
error_for_role(const ErrorData *error, Oid role)
{
	Oid			schema;
	Oid			relid;

	if (error->detail == NULL)
		return error->message;
	if (error->table_name != NULL)
	{
		schema = error->schema_name == NULL ? InvalidOid : get_namespace_oid(error->schema_name, true);
		relid = OidIsValid(schema) ? get_relname_relid(error->table_name, schema) : InvalidOid;
		if (!OidIsValid(relid) || !relation_is_readable(relid, role))
			return error->message;
	}
	return psprintf("%s: %s", error->message, error->detail);
}
