#!/usr/bin/env bash
# Fuzzes the readers of foreign input (fuzz/) with cargo-fuzz. It needs a nightly compiler; without one this says so and does nothing: the
# same bodies run bounded in the tests, on any compiler. Usage: fuzz.sh TARGET|"" SECONDS
. "$(dirname "$0")/setup/lib.sh"

only=$1 seconds=$2
if ! command -v rustup >/dev/null || ! rustup run nightly rustc --version >/dev/null 2>&1; then
    echo "fuzz: there is no nightly compiler, which cargo-fuzz needs: run rustup toolchain install nightly"
    echo "fuzz: nothing was fuzzed; the targets' bodies run bounded in make test (tests/repository/fuzz_bodies.rs)"
    exit 0
fi
tools/setup/rust_tool.sh fuzz
make_work

# seed TARGET FILE...: what a target begins with, beside what earlier runs have found.
seed() {
    local into=$work/seeds/$1 file number=0
    shift
    mkdir -p "$into"
    for file in "$@"; do
        [ -f "$file" ] || continue
        number=$((number + 1))
        cp "$file" "$into/$number"
    done
}
seed settings config/*.yaml
seed labels config/labels/*.yaml
seed preprocessor models/starter/preprocessor_config.json tests/conformance/*/preprocessor_config.json tests/conformance/*/*/preprocessor_config.json
seed config tests/conformance/*/*/config.json tests/conformance/*/*/open_clip_config.json
seed safetensors tests/conformance/checkpoints/*/*.safetensors
seed pickle tests/conformance/checkpoints/*/*.bin
seed http tests/data/http/*
mkdir -p "$work/seeds/coded_size"
# The first byte says how it is coded: 11 is JPEG.
{ printf '\13' && cat tests/data/bomb65500.jpg; } >"$work/seeds/coded_size/jpeg"
mkdir -p "$work/seeds/model_folder"
{
    printf '\0'
    cat models/starter/config.json && printf '\377'
    cat models/starter/preprocessor_config.json && printf '\377{}\377{}\377'
    head -c 4096 models/starter/text_model.onnx | tr -d '\377' && printf '\377'
    head -c 4096 models/starter/vision_model.onnx
} >"$work/seeds/model_folder/starter"

for file in fuzz/fuzz_targets/*.rs; do
    target=$(basename "$file" .rs)
    if [ -n "$only" ] && [ "$only" != "$target" ]; then continue; fi
    mkdir -p "$work/seeds/$target" "fuzz/corpus/$target"
    echo "fuzz: $target, $seconds s"
    # Larger inputs than this say nothing new of these readers.
    cargo +nightly fuzz run "$target" "fuzz/corpus/$target" "$work/seeds/$target" -- \
        -max_total_time="$seconds" -max_len=65536 -timeout=20 -rss_limit_mb=4096 -verbosity=0 -print_final_stats=1
done
