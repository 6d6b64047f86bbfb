/*
 * dial.c
 *		Beginning to connect to a peer.
 */
#include "postgres.h"

#include <dirent.h>
#include <sys/stat.h>

#include "lib/stringinfo.h"
#include "net/dial.h"
#include "net/lookup.h"
#include "utils/memutils.h"

#define MAX_DIRECTORY	1000	/* entries of one that are looked at */

/* One of the hosts that the option names, or several addresses of it. */
typedef struct Host
{
	const char *name;			/* empty: none */
	const char *address;		/* empty: none */
	const char *port;			/* NULL: none */
	bool		needed;			/* it has to be looked up */
	Lookup	   *lookup;
} Host;

typedef struct NamedFile
{
	const char *option;
	const char *path;
} NamedFile;

struct Dial
{
	MemoryContext context;
	Oid			role;
	const char **keywords;		/* ended by NULL, with room for three more */
	const char **values;
	int			noptions;
	Host	   *hosts;
	int			nhosts;
	NamedFile  *files;
	int			nfiles;
};

bool
file_is_special(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && !S_ISREG(st.st_mode);
}

/* Directories of revocation lists: their files are opened one by one. */
static bool
directory_has_special(const char *path)
{
	DIR		   *directory;
	struct dirent *entry;
	int			n = 0;
	bool		found = false;
	struct stat st;

	if (stat(path, &st) != 0)
		return false;
	directory = S_ISDIR(st.st_mode) ? opendir(path) : NULL;
	if (directory == NULL)
		return !S_ISDIR(st.st_mode);
	while (!found && n++ < MAX_DIRECTORY && (entry = readdir(directory)) != NULL)
	{
		char		file[MAXPGPATH];

		snprintf(file, sizeof(file), "%s/%s", path, entry->d_name);
		found = stat(file, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode);
	}
	closedir(directory);
	return found || n > MAX_DIRECTORY;
}

const char *
dial_check_files(Dial *dial)
{
	for (int i = 0; i < dial->nfiles; i++)
	{
		NamedFile  *file = &dial->files[i];

		if (strcmp(file->option, "sslcrldir") == 0 ? directory_has_special(file->path) : file_is_special(file->path))
		{
			MemoryContext old = MemoryContextSwitchTo(dial->context);
			const char *why = psprintf("option \"%s\" names a file that is not a regular one", file->option);

			MemoryContextSwitchTo(old);
			return why;
		}
	}
	return NULL;
}

static void
add_file(Dial *dial, const char *option, const char *path)
{
	dial->files[dial->nfiles].option = option;
	dial->files[dial->nfiles++].path = pstrdup(path);
}

/* What libpq takes for an option: the last that is not empty. NULL: nothing. */
static const char *
effective(Dial *dial, const char *keyword)
{
	for (int i = dial->noptions - 1; i >= 0; i--)
		if (strcmp(dial->keywords[i], keyword) == 0 && dial->values[i][0] != '\0')
			return dial->values[i];
	return NULL;
}

/*
 * What libpq would take from a service's definition, or from the environment: it says so
 * of a connection that it has refused to begin, for a value that no option has.
 */
static void
read_defaults(Dial *dial, const char **host, const char **address, const char **port)
{
	PGconn	   *conn;
	PQconninfoOption *options;
	NamedFile  *files;

	dial->keywords[dial->noptions] = "sslmode";
	dial->values[dial->noptions] = "?";
	dial->keywords[dial->noptions + 1] = dial->values[dial->noptions + 1] = NULL;
	conn = PQconnectStartParams(dial->keywords, dial->values, false);
	dial->keywords[dial->noptions] = dial->values[dial->noptions] = NULL;
	options = conn == NULL ? NULL : PQconninfo(conn);
	PQfinish(conn);
	if (options == NULL)
		return;
	PG_TRY();
	{
		int			n = 0;

		while (options[n].keyword != NULL)
			n++;
		files = palloc((dial->nfiles + n) * sizeof(NamedFile));
		memcpy(files, dial->files, dial->nfiles * sizeof(NamedFile));
		dial->files = files;
		for (PQconninfoOption *o = options; o->keyword != NULL; o++)
		{
			if (o->val == NULL || o->val[0] == '\0')
				continue;
			if (strcmp(o->keyword, "host") == 0)
				*host = pstrdup(o->val);
			else if (strcmp(o->keyword, "hostaddr") == 0)
				*address = pstrdup(o->val);
			else if (strcmp(o->keyword, "port") == 0)
				*port = pstrdup(o->val);
			else if (peer_option_names_file(o->keyword))
				add_file(dial, pstrdup(o->keyword), o->val);
		}
	}
	PG_FINALLY();
	{
		PQconninfoFree(options);
	}
	PG_END_TRY();
}

/* The parts of a list with commas, as libpq takes them; NIL for no text. */
static List *
split_list(const char *text)
{
	List	   *parts = NIL;

	while (text != NULL)
	{
		const char *comma = strchr(text, ',');

		parts = lappend(parts, comma == NULL ? pstrdup(text) : pnstrdup(text, comma - text));
		text = comma == NULL ? NULL : comma + 1;
	}
	return parts;
}

/* Find out whom to connect to. What libpq refuses as it is left to it. */
static void
read_hosts(Dial *dial)
{
	const char *host = effective(dial, "host");
	const char *address = effective(dial, "hostaddr");
	const char *port = effective(dial, "port");
	List	   *names,
			   *addresses,
			   *ports;
	int			n;

	if ((host == NULL && address == NULL) || effective(dial, "service") != NULL ||
		getenv("PGSERVICE") != NULL || getenv("PGHOSTADDR") != NULL)
		read_defaults(dial, &host, &address, &port);
	names = split_list(host);
	addresses = split_list(address);
	ports = split_list(port);
	n = addresses == NIL ? list_length(names) : list_length(addresses);
	if (n == 0 || (names != NIL && list_length(names) != n) || (list_length(ports) > 1 && list_length(ports) != n))
		return;
	dial->nhosts = n;
	dial->hosts = palloc0(n * sizeof(Host));
	for (int i = 0; i < n; i++)
	{
		Host	   *h = &dial->hosts[i];

		h->name = names == NIL ? "" : list_nth(names, i);
		h->address = addresses == NIL ? "" : list_nth(addresses, i);
		h->port = ports == NIL ? NULL : list_nth(ports, list_length(ports) == 1 ? 0 : i);
		h->needed = h->address[0] == '\0' && lookup_is_needed(h->name);
	}
}

Dial *
dial_new(const PeerParams *params, Oid role, MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "dtx dial", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Dial	   *dial = palloc0(sizeof(Dial));
	int			n = 0;

	dial->context = context;
	dial->role = role;
	while (params->keywords[n] != NULL)
		n++;
	dial->keywords = palloc0((n + 4) * sizeof(char *));
	dial->values = palloc0((n + 4) * sizeof(char *));
	dial->files = palloc(Max(n, 1) * sizeof(NamedFile));
	for (int i = 0; i < n; i++)
	{
		dial->keywords[i] = pstrdup(params->keywords[i]);
		dial->values[i] = pstrdup(params->values[i]);
		if (dial->values[i][0] != '\0' && peer_option_names_file(dial->keywords[i]))
			add_file(dial, dial->keywords[i], dial->values[i]);
	}
	dial->noptions = n;
	read_hosts(dial);
	MemoryContextSwitchTo(old);
	return dial;
}

MemoryContext
dial_context(Dial *dial)
{
	return dial->context;
}

static const char *
not_found(Dial *dial, const char *name, const char *why)
{
	MemoryContext old = MemoryContextSwitchTo(dial->context);
	const char *text = psprintf("could not translate host name \"%s\" to address: %s", name, why);

	MemoryContextSwitchTo(old);
	return text;
}

const char *
dial_start(Dial *dial)
{
	for (int i = 0; i < dial->nhosts; i++)
	{
		Host	   *host = &dial->hosts[i];
		const char *why;

		if (!host->needed)
			continue;
		host->lookup = lookup_start(host->name, dial->role, &why);
		if (host->lookup == NULL)
			return not_found(dial, host->name, why);
	}
	return NULL;
}

/* The first one that is not known yet. */
static Host *
first_unknown(Dial *dial)
{
	for (int i = 0; i < dial->nhosts; i++)
		if (dial->hosts[i].lookup != NULL && !lookup_done(dial->hosts[i].lookup))
			return &dial->hosts[i];
	return NULL;
}

bool
dial_ready(Dial *dial)
{
	return first_unknown(dial) == NULL;
}

pgsocket
dial_socket(Dial *dial)
{
	Host	   *host = first_unknown(dial);

	/* the last one may just have been found: its socket is readable */
	for (int i = 0; i < dial->nhosts && host == NULL; i++)
		if (dial->hosts[i].lookup != NULL)
			host = &dial->hosts[i];
	return host == NULL ? PGINVALID_SOCKET : lookup_socket(host->lookup);
}

static void
append_host(StringInfo names, StringInfo addresses, StringInfo ports, const Host *host, const char *address, bool first)
{
	if (!first)
	{
		appendStringInfoChar(names, ',');
		appendStringInfoChar(addresses, ',');
		appendStringInfoChar(ports, ',');
	}
	appendStringInfoString(names, host->name);
	appendStringInfoString(addresses, address);
	if (host->port != NULL)
		appendStringInfoString(ports, host->port);
}

/* Each address with the name that it is one of. False: there is none. */
static bool
set_addresses(Dial *dial)
{
	StringInfoData names,
				addresses,
				ports;
	int			n = 0;

	initStringInfo(&names);
	initStringInfo(&addresses);
	initStringInfo(&ports);
	for (int i = 0; i < dial->nhosts; i++)
	{
		Host	   *host = &dial->hosts[i];

		if (!host->needed)
			append_host(&names, &addresses, &ports, host, host->address, n++ == 0);
		else
			for (int j = 0; j < lookup_count(host->lookup); j++)
				append_host(&names, &addresses, &ports, host, lookup_address(host->lookup, j), n++ == 0);
	}
	dial->keywords[dial->noptions] = "host";
	dial->values[dial->noptions] = names.data;
	dial->keywords[dial->noptions + 1] = "hostaddr";
	dial->values[dial->noptions + 1] = addresses.data;
	dial->keywords[dial->noptions + 2] = dial->hosts[0].port == NULL ? NULL : "port";
	dial->values[dial->noptions + 2] = dial->hosts[0].port == NULL ? NULL : ports.data;
	return n > 0;
}

PGconn *
dial_connect(Dial *dial, const char **why)
{
	const Host *needed = NULL;
	PGconn	   *conn;

	for (int i = 0; i < dial->nhosts && needed == NULL; i++)
		if (dial->hosts[i].needed)
			needed = &dial->hosts[i];
	if (needed != NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(dial->context);
		bool		found = set_addresses(dial);

		MemoryContextSwitchTo(old);
		if (!found)
		{
			*why = not_found(dial, needed->name, lookup_error(needed->lookup));
			return NULL;
		}
	}
	conn = PQconnectStartParams(dial->keywords, dial->values, false);
	if (conn == NULL)
		*why = "out of memory";
	return conn;
}

void
dial_free(Dial *dial)
{
	for (int i = 0; i < dial->nhosts; i++)
		if (dial->hosts[i].lookup != NULL)
			lookup_release(dial->hosts[i].lookup);
	MemoryContextDelete(dial->context);
}
