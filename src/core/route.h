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

#endif							/* DTX_ROUTE_H */
