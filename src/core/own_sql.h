/*
 * own_sql.h
 *		SQL on dtx's own tables, for what is not on the hot path.
 */
#ifndef DTX_OWN_SQL_H
#define DTX_OWN_SQL_H

#include "postgres.h"

#include "executor/spi.h"

/*
 * Between these two an SPI connection is open, and statements run as the owner of
 * dtx's tables, with nothing but pg_catalog to look names up in: the caller has
 * checked what the role may do. An ERROR in between ends both, with the
 * (sub)transaction. No user's function may run in there.
 */
typedef struct OwnSql
{
	Oid			role;
	int			context;
	int			nest;
} OwnSql;

extern void own_sql_begin(OwnSql *state);
extern void own_sql_end(OwnSql *state);

/* Run one statement; nulls as for SPI, or NULL. Returns the number of rows, which
 * are in SPI_tuptable. */
extern uint64 own_sql(const char *sql, int nargs, Oid *types, Datum *values, const char *nulls);

/* The same with a plan that is kept in *plan, NULL at first, for what runs often. */
extern uint64 own_sql_saved(SPIPlanPtr *plan, const char *sql, int nargs, Oid *types, Datum *values,
							const char *nulls);

#endif							/* DTX_OWN_SQL_H */
