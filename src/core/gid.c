/*
 * gid.c
 *		Ids of global transactions and branches: parsing, printing, hashing.
 */
#include "postgres.h"

#include <ctype.h>

#include "common/hashfn.h"
#include "core/gid.h"

/* An unsigned decimal number without leading zeros; *end is set past it. */
static bool
parse_decimal(const char *p, const char **end, uint64 most, uint64 *value)
{
	uint64		v = 0;

	if (!isdigit((unsigned char) *p) || (*p == '0' && isdigit((unsigned char) p[1])))
		return false;
	for (; isdigit((unsigned char) *p); p++)
	{
		uint64		digit = *p - '0';

		if (v > (most - digit) / 10)
			return false;
		v = v * 10 + digit;
	}
	*value = v;
	*end = p;
	return true;
}

static bool
is_lower_hex(const char *p, int length)
{
	for (int i = 0; i < length; i++)
		if (!(isdigit((unsigned char) p[i]) || (p[i] >= 'a' && p[i] <= 'f')))
			return false;
	return true;
}

/* --- names of nodes --- */

static bool
is_plain(unsigned char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
		c == '-' || c == '.' || c == '_' || c == '~';
}

static int
hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Is it encoded, in the one form that there is? */
static bool
is_encoded(const char *name)
{
	for (const char *p = name; *p; p++)
	{
		int			high,
					low;

		if (is_plain((unsigned char) *p))
			continue;
		if (*p != '%' || (high = hex_digit(p[1])) < 0 || (low = hex_digit(p[2])) < 0 ||
			high * 16 + low == 0 || is_plain((unsigned char) (high * 16 + low)))
			return false;
		p += 2;
	}
	return *name != '\0';
}

void
node_name_encode(const char *name, char *buffer)
{
	char	   *out = buffer;

	while (*name)
	{
		/* a character of several bytes as a whole: those after the first look alike in UTF-8 */
		int			length = 1;
		int			size = 0;

		while ((name[length] & 0xC0) == 0x80)
			length++;
		for (int i = 0; i < length; i++)
			size += is_plain((unsigned char) name[i]) ? 1 : 3;
		if (out - buffer + size >= NAMEDATALEN)
			break;
		for (; length > 0; length--, name++)
		{
			if (is_plain((unsigned char) *name))
				*out++ = *name;
			else
				out += sprintf(out, "%%%02X", (unsigned char) *name);
		}
	}
	/* a name without one character that fits */
	if (out == buffer)
		*out++ = '_';
	*out = '\0';
}

char *
node_name_normal(const char *name)
{
	char		encoded[NAMEDATALEN];

	if (is_encoded(name) && strlen(name) < NAMEDATALEN)
		return pstrdup(name);
	node_name_encode(name, encoded);
	return pstrdup(encoded);
}

bool
node_has_name(const char *node, const char *name)
{
	char	   *normal = node_name_normal(name);

	return strncmp(node, normal, strlen(normal)) == 0 && strrchr(node, '.') == node + strlen(normal);
}

/* --- ids --- */

/*
 * The node's name may hold a '.', so the text is read from its end: R is all that
 * follows the last '.', N what stands between it and the last ':'.
 */
static bool
parse_xid_part(const char *text, size_t length, GlobalXid *xid)
{
	char		buffer[DTX_GID_SIZE];
	char	   *dot;
	char	   *colon;
	const char *end;
	size_t		node_length;

	if (length >= sizeof(buffer))
		return false;
	memcpy(buffer, text, length);
	buffer[length] = '\0';

	dot = strrchr(buffer, '.');
	if (dot == NULL || strlen(dot + 1) != 16 || !is_lower_hex(dot + 1, 16))
		return false;
	xid->r = strtoull(dot + 1, NULL, 16);
	*dot = '\0';

	colon = strrchr(buffer, ':');
	if (colon == NULL || !parse_decimal(colon + 1, &end, PG_UINT64_MAX, &xid->n) ||
		*end != '\0' || xid->n == 0)
		return false;
	*colon = '\0';

	node_length = strlen(buffer);
	/* the tag and its dot are plain too */
	if (!is_encoded(buffer))
		return false;
	if (node_length < 1 + 1 + DTX_TAG_LENGTH || node_length >= DTX_NODE_SIZE ||
		buffer[node_length - DTX_TAG_LENGTH - 1] != '.' ||
		!is_lower_hex(buffer + node_length - DTX_TAG_LENGTH, DTX_TAG_LENGTH))
		return false;
	memset(xid->node, 0, sizeof(xid->node));
	strcpy(xid->node, buffer);
	return true;
}

bool
xid_parse(const char *text, GlobalXid *xid)
{
	return parse_xid_part(text, strlen(text), xid);
}

bool
gid_parse(const char *text, Gid *gid)
{
	size_t		length = strlen(text);

	memset(gid, 0, sizeof(*gid));
	if (length >= DTX_GID_SIZE)
		return false;
	/* take /B off the end until an xid is left */
	while (length > 0)
	{
		size_t		slash = length;
		const char *end;
		uint64		b;

		while (slash > 0 && text[slash - 1] != '/')
			slash--;
		if (slash == 0 || !parse_decimal(text + slash, &end, PG_INT32_MAX, &b) ||
			end != text + length || b == 0)
			return false;
		if (gid->depth++ == 0)
			gid->b = (uint32) b;
		length = slash - 1;
		if (parse_xid_part(text, length, &gid->xid))
			return true;
	}
	return false;
}

void
xid_parse_or_error(const char *text, GlobalXid *xid)
{
	if (!xid_parse(text, xid))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not the id of a global transaction", text),
				 errhint("Such an id looks like \"bank1.8c41f2d0:12345.9f86d081884c7d65\"; dtx_xid() returns the current one.")));
}

void
gid_parse_or_error(const char *text, Gid *gid)
{
	if (!gid_parse(text, gid))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not the id of a branch", text),
				 errhint("Such an id looks like \"bank1.8c41f2d0:12345.9f86d081884c7d65/1\".")));
}

void
xid_format(const GlobalXid *xid, char *buffer)
{
	snprintf(buffer, DTX_GID_SIZE, "%s:" UINT64_FORMAT ".%08x%08x", xid->node, xid->n,
			 (uint32) (xid->r >> 32), (uint32) xid->r);
}

void
gid_of_child(const char *parent, uint32 b, char *buffer)
{
	if (snprintf(buffer, DTX_GID_SIZE, "%s/%u", parent, b) >= DTX_GID_SIZE)
		ereport(ERROR,
				(errcode(ERRCODE_STATEMENT_TOO_COMPLEX),
				 errmsg("branches are nested too deeply"),
				 errdetail("The superior branch is \"%s\".", parent)));
}

void
gid_parent(const char *gid_text, char *buffer)
{
	strlcpy(buffer, gid_text, DTX_GID_SIZE);
	*strrchr(buffer, '/') = '\0';
}

bool
xid_equal(const GlobalXid *a, const GlobalXid *b)
{
	return a->n == b->n && a->r == b->r && strcmp(a->node, b->node) == 0;
}

uint64
xid_hash(const GlobalXid *xid)
{
	uint64		h;

	h = hash_bytes_extended((const unsigned char *) xid->node, strlen(xid->node), 0);
	h = hash_combine64(h, hash_bytes_extended((const unsigned char *) &xid->n, sizeof(xid->n), 0));
	h = hash_combine64(h, hash_bytes_extended((const unsigned char *) &xid->r, sizeof(xid->r), 0));
	return h == 0 ? 1 : h;
}

int64
gid_branch_key(const Gid *gid, const char *text)
{
	uint32		low = hash_bytes((const unsigned char *) text, strlen(text));

	return (int64) (((gid->xid.n & UINT64CONST(0x7fffffff)) << 32) | low);
}
