# docs/reference.md and the sources agree, as .ci/reference finds; and it finds
# each way in which they can fail to, shown on a copy that is spoilt. What only a
# server can tell, the columns of the views, is compared with one. Links of
# the docs lead somewhere, and the like, as .ci/docs finds.

use strict;
use warnings;

use File::Basename;
use File::Path;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $root = dirname(__FILE__) . '/..';
my $copy = PostgreSQL::Test::Utils::tempdir() . '/tree';
my @files = map { s{^\Q$root\E/}{}r } glob("$root/docs/reference.md $root/dtx--*.sql $root/src/*.[ch] $root/src/*/*.[ch]");

sub contents
{
	my ($path) = @_;
	open my $file, '<', $path or die "$path: $!";
	local $/;
	return scalar <$file>;
}

sub found
{
	my ($program, @arguments) = @_;
	my ($out, $err) = run_command([ "$root/.ci/$program", @arguments ]);
	return join '', sort map { "$_\n" } split /\n/, "$out$err";
}

# spoilt PROGRAM, FILE, WHAT, BY, FINDINGS: with another text in one file of the copy.
sub spoilt
{
	my ($program, $name, $what, $by, $finds) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $text = contents("$root/$name");
	my $other = $text;
	$other =~ s/$what/$by/ or return fail("$name does not have $what");
	put($name, $other);
	like(found($program, $copy), $finds, "$name: $what, and it is found");
	put($name, $text);
	return;
}

sub put
{
	my ($name, $text) = @_;
	mkpath(dirname("$copy/$name"));
	open my $file, '>', "$copy/$name" or die "$name: $!";
	print $file $text;
	close $file or die "$name: $!";
	return;
}

is(found('reference', $root), '', 'the reference and the sources agree');

put($_, contents("$root/$_")) foreach @files;
is(found('reference', $copy), '', 'so do their copies');
my ($script) = grep { /\.sql$/ } @files;
my $reference = 'docs/reference.md';

spoilt('reference', $script, qr/^(?=CREATE FUNCTION dtx_xid\(\))/m, "CREATE FUNCTION dtx_more(a text) RETURNS text\n    LANGUAGE sql AS '';\n",
	qr/\Afunction dtx_more\(a text\) → text is not in docs\/reference\.md\n\z/);
spoilt('reference', $script, qr/CREATE FUNCTION dtx_wait\(xid text, timeout interval DEFAULT '10s'\)/,
	q{CREATE FUNCTION dtx_wait(xid text, timeout interval DEFAULT '20s')},
	qr/^function dtx_wait\(.*'10s'\) → text is in docs\/reference\.md only\nfunction dtx_wait\(.*'20s'\) → text is not in/m);
spoilt('reference', $script, qr/CREATE FUNCTION dtx_commit\(xid text\) RETURNS text/, 'CREATE FUNCTION dtx_commit(xid text) RETURNS boolean',
	qr/^function dtx_commit\(xid text\) → boolean is not in/m);
spoilt('reference', $script, qr/CREATE VIEW dtx_frozen/, 'CREATE VIEW dtx_cold', qr/^view dtx_cold is not in.*^view dtx_frozen is in.* only/ms);
spoilt('reference', $reference, qr/^dtx_unexpect\(.*\n/m, "dtx_unexpect(server name)\n",
	qr/^function dtx_unexpect\(server name\) is in.* only.*^function dtx_unexpect\(server name, tx_no text\) is not in/ms);
spoilt('reference', $reference, qr/^### dtx_xid$/m, '### The xid', qr/^function dtx_xid has no heading/m);
spoilt('reference', $reference, qr/^- \*\*`dtx\.retry_max`\*\* \(\K1 min/m, '2 min',
	qr/\Asetting dtx\.retry_max: docs\/reference\.md says 120, reload, it is 60, reload\n\z/);
spoilt('reference', $reference, qr/^- \*\*`dtx\.call_timeout`\*\* \(0; \Kanyone/m, 'superuser', qr/\Asetting dtx\.call_timeout: /);
spoilt('reference', 'src/guc.c', qr/"dtx\.settle_batch"/, '"dtx.settle_lot"', qr/^setting dtx\.settle_batch is in.* only\nsetting dtx\.settle_lot is not in/m);
spoilt('reference', 'src/core/views.c', qr/= "lost_branches"/, '= "mislaid_branches"', qr/^counter lost_branches is in.* only\ncounter mislaid_branches is not in/m);
spoilt('reference', 'src/core/shared.c', qr/errcode\(ERRCODE_DTX_BRANCH_STATE\)/, 'errcode(ERRCODE_DIVISION_BY_ZERO)', qr/\ASQLSTATE 22012 is not in/);
spoilt('reference', $reference, qr/^(?=\| `DX001` \|)/m, "| `DX999` | | | |\n", qr/\ASQLSTATE DX999 is in.* only/);

# --- columns

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(extra => [ '--encoding=UTF8', '--locale=C' ]);
$node->append_conf('postgresql.conf', q{shared_preload_libraries = 'dtx'});
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION dtx');
my $columns = $node->safe_psql('postgres', <<'SQL');
SELECT replace(c.relname || '(' || string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum) || ')',
               'timestamp with time zone', 'timestamptz')
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relkind = 'v' AND c.relname LIKE 'dtx\_%' AND c.relnamespace = 'public'::regnamespace
GROUP BY c.relname ORDER BY c.relname
SQL
my ($views) = contents("$root/$reference") =~ /^## Views\n(.*?)^## /ms;
my @shown = map { s/\n +/ /gr } $views =~ /^```\n(dtx_.*?)\n```$/msg;
is(join("\n", sort @shown), $columns, 'the columns of the views are those that the reference shows');

# --- what a reader would stumble over

is(found('docs', $root), '', 'nothing to stumble over');
put($_, contents("$root/$_")) foreach map { s{^\Q$root\E/}{}r } glob("$root/README.md $root/docs/*.md $root/demo/run $root/examples/*/* $root/bench/*.md");
is(found('docs', $copy), '', 'nor in the copies');
spoilt('docs', 'docs/xa.md', qr/^\|/m, "[a](nowhere.md)\n|", qr/\Adocs\/xa\.md:\d+: there is no docs\/nowhere\.md\n\z/);
spoilt('docs', 'docs/xa.md', qr/^\|/m, "[a](at.md#nothing)\n|", qr/\Adocs\/xa\.md:\d+: docs\/at\.md has no heading for #nothing\n\z/);
spoilt('docs', 'docs/reference.md', qr/^### dtx_xid$/m, "### The xid\n\n[x](#dtx_xid)", qr/docs\/reference\.md has no heading for #dtx_xid/);
spoilt('docs', 'demo/run', qr/docs\/tutorial\.md/, 'docs/lesson.md', qr/\Ademo\/run:\d+: there is no docs\/lesson\.md\n\z/);
spoilt('docs', 'docs/xa.md', qr/^    A->>B1: COMMIT$/m, '    A->>B1: COMMIT;', qr/\Adocs\/xa\.md:\d+: a picture with ; in it\n\z/);
spoilt('docs', 'docs/xa.md', qr/^\|/m, ("\xc3\xa4" x 121) . "\n|", qr/\Adocs\/xa\.md:\d+: 121 columns\n\z/);
spoilt('docs', 'README.md', qr/\z/, "\n" x 250, qr/\AREADME\.md has \d+ lines\n\z/);

done_testing();
