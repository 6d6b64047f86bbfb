/*
 * restricted.h
 *		Running code that belongs to somebody, where somebody else asked for it.
 */
#ifndef DTX_RESTRICTED_H
#define DTX_RESTRICTED_H

#include "postgres.h"

typedef struct Restricted
{
	Oid			user;			/* who goes on afterwards */
	int			security;
	int			nest;
} Restricted;

/*
 * Between these two, code of the role's tables (index expressions, constraints,
 * defaults, casts of its types) runs as PostgreSQL's own maintenance commands run
 * it: as the role, in a security-restricted operation, so that it cannot become
 * anybody else, with nothing but pg_catalog to look names up in; and what it sets
 * is undone. An ERROR in between ends it, with the (sub)transaction.
 */
extern void restricted_begin(Restricted *state, Oid role);
extern void restricted_end(Restricted *state);

/* Could a process run as this role by itself in this database? */
extern bool role_may_log_in(Oid role);

#endif							/* DTX_RESTRICTED_H */
