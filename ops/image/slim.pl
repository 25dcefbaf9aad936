#!/usr/bin/perl
# Makes a Debian root that has vtagd's package as small as an image should be. Runs inside of it, as root: slim.pl PLUGINS
#
# GStreamer's plug-ins that PLUGINS does not name go, and so does every package that neither Debian itself nor vtagd, ONNX Runtime or one of the
# plug-ins that are left is linked against: libraries for screens, sound and scripts, 400 MB of them. What stays is what the loader asks for, so
# a library is never forgotten. dpkg's list says what is there, and that nothing is missing: apt still works in an image made from this one.
# Licences stay where they are (/usr/share/doc/*/copyright); manuals, translations and lists of apt go.
use strict;
use warnings;
use Cwd qw(realpath);

# Only those who have just made a root for it say so (prepare.sh has the same), and a root has no systemd that runs.
die "slim: this is no root of an image: it would remove most of this machine. Nothing was done; run `make image`, or build ops/image/Dockerfile\n"
    if !$ENV{VTAGD_IMAGE_ROOT} || -e "/run/systemd/system";
my $plugins_file = shift or die "usage: slim.pl PLUGINS\n";
my $status = "/var/lib/dpkg/status";

sub slurp { open my $in, "<", $_[0] or die "slim: $_[0]: $!\n"; local $/; return scalar <$in> }

# Plug-ins.
my (%wanted, %optional);
for (split /\n/, slurp($plugins_file)) {
    next if /^\s*(#|$)/;
    my ($mark, $name) = /^(\??)([a-z0-9]+)$/ or die "slim: $plugins_file: not a plug-in: $_\n";
    $wanted{$name} = 1;
    $optional{$name} = 1 if $mark;
}
my @plugins;
for my $file (glob "/usr/lib/*-linux-gnu/gstreamer-1.0/libgst*.so") {
    my ($name) = $file =~ /libgst(\w+)\.so$/;
    if (delete $wanted{$name}) { push @plugins, $file } else { unlink $file or die "slim: $file: $!\n" }
}
my @absent = sort grep { !$optional{$_} } keys %wanted;
die "slim: GStreamer has no plug-in @absent here: see $plugins_file\n" if @absent;
# Of GLib's modules only TLS: the others ask a desktop for its proxy.
unlink grep { !/libgiognutls\.so$/ } glob "/usr/lib/*-linux-gnu/gio/modules/*.so";

# Packages: who needs whom, and whose a file is.
my (%depends, %base, %provided, @names);
for my $paragraph (split /\n\n/, slurp($status)) {
    my %field = $paragraph =~ /^([A-Za-z-]+):[ ]?(.*(?:\n[ ].*)*)/mg;
    next unless ($field{Status} // "") =~ / installed$/;
    my $name = $field{Package};
    push @names, $name;
    $depends{$name} = join ", ", grep { defined } @field{"Pre-Depends", "Depends"};
    $provided{$_} = $name for $name, map { s/\s.*//r } split /,\s*/, $field{Provides} // "";
    $base{$name} = 1 if ($field{Essential} // "") eq "yes" || ($field{Priority} // "") eq "required";
}
my %keep;
sub keep {
    my @more = @_;
    while (defined(my $name = pop @more)) {
        # It merges /lib into /usr once, with the whole of perl; that has been done.
        next if $name eq "usrmerge" || $keep{$name}++;
        for my $choice (split /,\s*/, $depends{$name}) {
            # Of alternatives, those that are there.
            push @more, grep { defined } map { $provided{s/[\s:(].*//sr} } split /\s*\|\s*/, $choice;
        }
    }
}
keep(keys %base, grep { exists $depends{$_} } qw(apt ca-certificates debian-archive-keyring tzdata));
my %owner;
for my $list (glob "/var/lib/dpkg/info/*.list") {
    my ($name) = $list =~ m{/([^/:]+)(?::\w+)?\.list$};
    # Under the name without links: /lib may be one.
    for my $file (grep { m{/lib/.*\.so|/bin/|libexec} } split /\n/, slurp($list)) {
        my $real = realpath($file);
        $owner{$real} = $name if defined $real && -f $real;
    }
}

# What is loaded, with all that it loads. The plug-in soup opens whichever libsoup is there by itself.
my $lib = "/usr/lib/*-linux-gnu";
my @seeds = ("/usr/bin/vtagd", @plugins,
    grep { -e } map { glob } "/usr/lib/vtagd/*.so", "$lib/libsoup-{2.4,3.0}.so.[0-9]", "$lib/gstreamer1.0/gstreamer-1.0/gst-plugin-scanner", "$lib/gio/modules/*.so");
for my $seed (@seeds) {
    my $real = realpath($seed) // die "slim: $seed is missing\n";
    $keep{$owner{$real}} = 1 if $owner{$real};
    for my $line (split /\n/, `ldd $seed 2>&1`) {
        die "slim: $seed: $line\n" if $line =~ /not found/;
        my ($file) = $line =~ m{(/\S+) \(0x} or next;
        $real = realpath($file);
        $keep{$owner{$real} // die "slim: $file of $seed belongs to no package\n"} = 1;
    }
}
$keep{vtagd} = 1;
my @gone = grep { !$keep{$_} } @names;
if (@gone) {
    open my $dpkg, "-|", "dpkg", "--purge", "--force-depends", @gone or die "slim: dpkg: $!\n";
    1 while <$dpkg>;
    close $dpkg or die "slim: dpkg could not remove packages\n";
}

# Nobody depends on what has gone.
my %gone = map { $_ => 1 } @gone;
my $text = slurp($status);
$text =~ s{^((?:Pre-)?Depends: )(.*)\n}{
    my ($field, $rest) = ($1, $2);
    my @left = grep { my $choice = $_; grep { my $name = s/[\s:(].*//sr; defined $provided{$name} && !$gone{$provided{$name}} } split /\s*\|\s*/, $choice } split /,\s*/, $rest;
    @left ? $field . join(", ", @left) . "\n" : "";
}gme;
open my $out, ">", "$status.new" or die "slim: $status: $!\n";
print $out $text or die;
close $out or die "slim: $status: $!\n";
rename "$status.new", $status or die "slim: $status: $!\n";

# What nobody reads in an image.
system("find /usr/share/doc -type f ! -name copyright ! -path '/usr/share/doc/vtagd/*' -delete; find /usr/share/doc -xtype l -delete; find /usr/share/doc -depth -type d -empty -delete") == 0
    or die "slim: /usr/share/doc\n";
system("rm -rf /usr/share/man/* /usr/share/locale/* /usr/share/info/* /usr/share/lintian /usr/share/bug /usr/share/bash-completion /usr/share/fish "
    . "/usr/share/zsh /var/lib/apt/lists/* /var/cache/* /var/log/* /var/lib/dpkg/status-old /var/lib/systemd /var/lib/vtagd /tmp/*") == 0 or die "slim: rm\n";
printf "slim: %d plug-ins and %d packages stay, %d packages have gone\n", scalar @plugins, scalar(keys %keep), scalar @gone;
