/*
 * route.h
 *		Which server leads to a node.
 */
#ifndef DTX_ROUTE_H
#define DTX_ROUTE_H

#include "postgres.h"

/* A server, with a user mapping for the role, behind which that node is found now.
 * Connects to look. ERROR 55000 when there is none. */
extern Oid	server_for_node(const char *node, Oid role);

/* The same, of several that lead there one through which branches of that role (its
 * name there) can be settled. ERROR 42501 when there is none such. */
extern Oid	server_for_branch(const char *node, Oid role, const char *owner);

#endif							/* DTX_ROUTE_H */
