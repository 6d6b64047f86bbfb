/*
 * readable.h
 *		What an error may say of rows, to a role.
 */
#ifndef DTX_READABLE_H
#define DTX_READABLE_H

#include "postgres.h"

#include "access/attnum.h"

/* May the role read all rows of a relation: all columns, or that one? Row-level security
 * says no. */
extern bool relation_is_readable(Oid relid, Oid role);
extern bool column_is_readable(Oid relid, AttrNumber column, Oid role);

/* The text of an error that came up in another role's rights: its detail, which may show
 * rows of the table that it names, only where the role may read that. Palloc'd. */
extern char *error_for_role(const ErrorData *error, Oid role);

#endif							/* DTX_READABLE_H */
