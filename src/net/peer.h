/*
 * peer.h
 *		Peers: foreign servers that name another node, and how to connect to
 *		one for a role.
 */
#ifndef DTX_PEER_H
#define DTX_PEER_H

#include "postgres.h"

#include "foreign/foreign.h"
#include "utils/timestamp.h"

typedef struct PeerParams
{
	char	   *server_name;
	Oid			mapping;		/* OID of the user mapping */
	const char **keywords;		/* for PQconnectStartParams */
	const char **values;
	bool		needs_password;	/* the connection must have used one */
} PeerParams;

/* Is this one of libpq's keywords that a server, or a mapping, may set? */
extern bool peer_option_is_known(const char *keyword, bool in_mapping);

/* Does this one name a file, which libpq reads as the server's account? */
extern bool peer_option_names_file(const char *keyword);

/* ERROR 42501 when the current role may not set it to that value, in a server or a mapping;
 * HV024 when it names a file that is there, and is not a regular one. */
extern void peer_option_check(const char *keyword, const char *value);

/* The known option nearest to a wrong one, or NULL. */
extern const char *peer_option_nearest(const char *keyword, bool in_mapping);

/* The server of that name, if the role may use it. ERROR 42704 or 42501. */
extern Oid	peer_server_by_name(const char *name, Oid role);

/* NULL, or that the role may not use the server, palloc'd. */
extern char *peer_refused(Oid server, Oid role);

/* ERROR 42809 unless the server is one that dtx can talk to as a database. */
extern void peer_require_database(Oid server);

/* Is there a user mapping for the role, or for PUBLIC? */
extern bool peer_mapping_exists(Oid server, Oid role);

/* ERROR 42704 unless there is; name: the server's. */
extern void peer_require_mapping(Oid server, const char *name, Oid role);

/*
 * What to connect with, for a role at a server, palloc'd. The password rule of
 * postgres_fdw is checked for the role that owns the mapping, whoever asks: a
 * plain role's mapping must bring a password. ERROR 42809 when the server's
 * wrapper is none that dtx can talk through, 42704 without a mapping, 2F003 when
 * a password is missing, 42501 when a server of another wrapper, whose owner is no
 * superuser, has an option that is a superuser's to set.
 */
extern PeerParams *peer_params(Oid server, Oid role);

#endif							/* DTX_PEER_H */
